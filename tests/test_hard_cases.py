"""Models and data that leave the mathematics little to go on: sound weights or a clear refusal."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import text_samples

import fastprune
from fastprune import prune
from fastprune.errors import NumericalError
from fastprune.selection import METHODS

QUICK = {"latency": False}
LEARNING = [name for name, method in METHODS.items() if method.calibrates]


def model():
    return tiny("bert").float()


def assert_sound(result, data, tmp_path):
    """Finite weights, finite outputs, and the same outputs after saving and loading."""
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    result.save_pretrained(tmp_path / "out")
    loaded = fastprune.load_pretrained(tmp_path / "out")
    batch = next(data.batches(2))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected, got = result.model(**inputs)[0], loaded(**inputs)[0]
    assert torch.isfinite(expected).all()
    assert torch.equal(expected, got)


@pytest.mark.parametrize("method", LEARNING)
def test_fewer_tokens_than_columns(method, tmp_path):
    data = text_samples("classification", 2)
    result = prune(model(), data, 0.5, method=method, samples=2, **QUICK)
    assert result.report.macs.kept <= 0.5
    assert_sound(result, data, tmp_path)


@pytest.mark.parametrize("method", LEARNING)
def test_a_whole_sublayer_of_dead_units(method, tmp_path):
    dead = model()
    ffn = dead.bert.encoder.layer[1].intermediate.dense
    ffn.weight.data.zero_()
    ffn.bias.data.zero_()
    data = text_samples("classification", 12)
    result = prune(dead, data, 0.6, method=method, samples=12, **QUICK)
    assert result.report.macs.kept <= 0.6
    assert_sound(result, data, tmp_path)


def test_dead_units_are_the_first_to_go():
    dead = model()
    ffn = dead.bert.encoder.layer[1].intermediate.dense
    ffn.weight.data.zero_()
    ffn.bias.data.zero_()
    result = prune(dead, text_samples("classification", 12), 0.9, samples=12, **QUICK)
    assert result.report.units["filters"][1] == 0


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("budget", [0.2, 0.1])
def test_budgets_that_empty_sublayers(method, budget, tmp_path):
    data = text_samples("classification", 12)
    result = prune(model(), data, budget, method=method, samples=12, **QUICK)
    assert 0 < result.report.macs.kept <= budget
    assert 0 in result.report.units["heads"] + result.report.units["filters"]
    assert_sound(result, data, tmp_path)


@pytest.mark.parametrize("method", ["obs", "fisher"])
def test_a_loss_that_depends_on_nothing_is_refused(method):
    flat = model()
    flat.classifier.weight.data.zero_()
    with pytest.raises(NumericalError, match="all gradients are zero") as error:
        prune(flat, text_samples("classification", 8), 0.5, method=method, samples=8, **QUICK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stages", [2, 3])
def test_stages_meet_the_budget_and_know_what_they_kept(stages):
    data = text_samples("classification", 12)
    given = model()
    result = prune(given, data, 0.3, stages=stages, samples=12, **QUICK)
    assert 0.2 < result.report.macs.kept <= 0.3
    kept = [int(mask.sum()) for mask in result.masks.values()]
    units = result.report.units
    assert kept[::2] == units["heads"]
    assert kept[1::2] == units["filters"]
    once = prune(given, data, 0.3, samples=12, **QUICK)
    assert any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(once.model.parameters(), result.model.parameters(), strict=True)
    )


def test_a_stage_that_alignment_has_finished_already_changes_nothing():
    data = text_samples("classification", 12)
    result = prune(model(), data, 0.3, stages=3, align=37, samples=12, **QUICK)
    assert result.report.macs.kept <= 0.3
