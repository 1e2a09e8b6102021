"""Measuring tables: against a clock whose times are known, and on the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from latency_tables import KnownClock, known_ms
from tiny_models import FAMILIES, random_masks, tiny

from fastprune import FastpruneError, compact, find_sites, measure_latency_table
from fastprune.errors import LatencyTableError
from fastprune.evaluation import latency_table as measure
from fastprune.evaluation.latency_table import counts_to_measure
from fastprune.evaluation.stacks import narrowed, stacked
from fastprune.structure import layer_units


@pytest.fixture
def known_clock(monkeypatch):
    monkeypatch.setattr(measure, "PassTimer", KnownClock)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured_as_the_clock_has_it(family, known_clock):
    model = tiny(family).float()
    table = measure_latency_table(model, batch=2, length=8, rounds=3, progress=False)
    small = compact(model, random_masks(find_sites(model)))
    assert table.dense_ms == pytest.approx(known_ms(model))
    assert table.fixed_ms == pytest.approx(5.0)
    assert table.parts == pytest.approx(1.0)
    assert table.estimate(small) == pytest.approx(known_ms(small))


def test_a_pruned_model_is_measured_by_its_widest_layers(known_clock):
    model = tiny("bert").float()
    masks = random_masks(find_sites(model))
    masks[find_sites(model)[0].name].zero_()
    small = compact(model, masks)
    smaller = compact(small, random_masks(find_sites(small), seed=1))
    table = measure_latency_table(small, batch=2, length=8, rounds=3, progress=False)
    assert table.estimate(smaller) == pytest.approx(known_ms(smaller))


def test_images_are_measured_at_their_own_length(known_clock):
    table = measure_latency_table(tiny("vit").float(), batch=2, rounds=1, progress=False)
    assert table.workload.length == 5


def test_the_model_stays_as_it_is(known_clock):
    model = tiny("bert").float().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_latency_table(model, batch=1, length=4, rounds=1, progress=False)
    assert model.training
    assert find_sites(model) == find_sites(tiny("bert"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_times_that_fall_with_more_units_are_taken_for_noise(monkeypatch):
    class Noisy(KnownClock):
        def round(self, after_each=lambda: None):
            times = super().round(after_each)
            heads = [sum(layer_units(model)["attention"]) for model in self._models]
            return times + np.array([3e-3 if h == 6 else 0.0 for h in heads])

    monkeypatch.setattr(measure, "PassTimer", Noisy)
    table = measure_latency_table(tiny("bert").float(), length=4, rounds=1, progress=False)
    (heads,) = (s for s in table.sublayers if s.shape.kind == "attention")
    assert list(heads.milliseconds) == sorted(heads.milliseconds)


def test_times_without_a_difference_are_refused(monkeypatch):
    class Stopped(KnownClock):
        def round(self, after_each=lambda: None):
            return np.full(len(self._models), 1e-3)

    monkeypatch.setattr(measure, "PassTimer", Stopped)
    with pytest.raises(LatencyTableError, match="larger batch"):
        measure_latency_table(tiny("bert").float(), length=4, rounds=1, progress=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch": 0}, "batch"),
        ({"length": 0}, "length"),
        ({"rounds": 0}, "rounds"),
        ({"length": 65}, "the model takes 64"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options, reason):
    with pytest.raises(FastpruneError, match=reason) as error:
        measure_latency_table(tiny("bert").float(), progress=False, **options)
    assert "\n" not in str(error.value)


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def broken(model):
        def call(**inputs):
            raise RuntimeError("no compiler\nfound")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(FastpruneError, match="no compiler") as error:
        measure_latency_table(tiny("bert").float(), length=4, compiled=True, progress=False)
    assert "\n" not in str(error.value)


def test_wider_sublayers_take_longer_on_the_real_clock():
    model = tiny("bert", hidden_size=128, intermediate_size=1024, num_hidden_layers=2).float()
    table = measure_latency_table(model, batch=8, length=32, rounds=5, progress=False)
    (filters,) = (s for s in table.sublayers if s.shape.kind == "ffn")
    assert filters.milliseconds[-1] > filters.milliseconds[0]
    assert 0 < table.fixed_ms < table.dense_ms
    assert table.estimate(model) == pytest.approx(table.dense_ms)


@pytest.mark.parametrize("units", [1, 2, 12, 16, 32, 37, 128, 1536, 3072, 11008])
@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_counts_start_at_one_end_at_all_and_are_few(units, kind):
    counts = counts_to_measure(units, kind)
    assert counts[0] == 1
    assert counts[-1] == units
    assert list(counts) == sorted(set(counts))
    assert len(counts) <= 19
    if kind == "ffn" and units > 16:
        assert all(n % 8 == 0 for n in counts[1:-1])


def test_stacks_share_what_is_not_theirs_and_have_weights_of_their_own(monkeypatch):
    monkeypatch.setattr("fastprune.evaluation.stacks._LEAST_WEIGHTS", 1)
    model = tiny("bert").float()
    stack = stacked(model, "bert.encoder.layer.1")
    first, second = stack.bert.encoder.layer
    assert stack.bert.embeddings.word_embeddings.weight is (
        model.bert.embeddings.word_embeddings.weight
    )
    original = model.bert.encoder.layer[1].output.dense.weight
    weights = [original, first.output.dense.weight, second.output.dense.weight]
    assert len({w.data_ptr() for w in weights}) == 3
    assert all(torch.equal(original, w) for w in weights)
    small = narrowed(stack, {"ffn": 5})
    assert layer_units(small) == {"attention": [4, 4], "ffn": [5, 5]}
    assert layer_units(stack) == {"attention": [4, 4], "ffn": [37, 37]}
    kept = small.bert.encoder.layer[0].attention.self.query.weight
    assert kept is first.attention.self.query.weight
