"""Models and data that leave the mathematics little to go on: sound weights or a clear refusal."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import FastpruneError, prune
from fastprune.errors import DataError, NumericalError
from fastprune.selection import METHODS

QUICK = {"latency": False}
LEARNING = [name for name in METHODS if name not in ("magnitude", "random")]


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


def test_a_stage_that_overshoots_the_next_is_skipped():
    """Dead filters cost nothing, so the first stage drops them all and passes the final budget."""
    dead = model()
    ffn = dead.bert.encoder.layer[1].intermediate.dense
    ffn.weight.data.zero_()
    ffn.bias.data.zero_()
    result = prune(dead, text_samples("classification", 12), 0.9, stages=2, samples=12, **QUICK)
    assert result.report.macs.kept <= 0.9


@pytest.mark.parametrize("kind", ["attention", "ffn"])
@pytest.mark.parametrize("method", ["obs", "fisher", "magnitude", "kprune"])
def test_models_that_lost_one_kind_of_site_prune_further(kind, method):
    dense = model()
    sites = fastprune.find_sites(dense)
    masks = {s.name: torch.zeros(s.units) for s in sites if s.kind == kind}
    left = fastprune.compact(dense, masks)
    data = text_samples("classification", 12)
    result = prune(left, data, 0.5, method=method, samples=12, **QUICK)
    assert 0 < result.report.macs.kept <= 0.5


@pytest.mark.parametrize("align", [1, 4])
def test_one_sample_of_one_token_tells_nothing_apart(align):
    data = text_samples("classification", 1)
    data.features[0] = {"input_ids": [5], "attention_mask": [1]}
    with pytest.raises(NumericalError, match="inputs of no layer vary"):
        prune(model(), data, 0.5, align=align, samples=1, **QUICK)


def test_statistics_of_another_hidden_size_are_refused():
    data = text_samples("classification", 8)
    other = fastprune.collect_statistics(tiny("bert", hidden_size=64).float(), data)
    with pytest.raises(DataError, match="belong to another model"):
        prune(model(), data, 0.5, statistics=other, samples=8, **QUICK)
    with pytest.raises(DataError, match="do not add up"):
        other + fastprune.collect_statistics(model(), data)


def test_the_report_says_what_given_statistics_are_of():
    data = text_samples("classification", 8)
    labelled = fastprune.collect_statistics(model(), data, targets="labels")
    result = prune(model(), data, 0.5, statistics=labelled, samples=8, **QUICK)
    assert result.report.targets == "labels"
    with pytest.raises(FastpruneError, match="fisher=batch is asked for"):
        prune(model(), data, 0.5, statistics=labelled, preset="kwon2022", samples=8, **QUICK)
    sampled = fastprune.collect_statistics(model(), data)
    with pytest.raises(FastpruneError, match="targets=labels is asked for"):
        prune(model(), data, 0.5, statistics=sampled, targets="labels", samples=8, **QUICK)


def test_float64_weights_that_stay_come_back_to_the_last_bit():
    given = tiny("bert")
    given.classifier.weight.data[0, 0] = 1 / 3
    result = prune(given, text_samples("classification", 8), 0.5, samples=8, **QUICK)
    assert torch.equal(result.model.classifier.weight, given.classifier.weight)


def test_float64_weights_beyond_float32_are_named():
    given = tiny("bert")
    given.classifier.weight.data[0, 0] = 1e39
    with pytest.raises(FastpruneError, match=r"classifier\.weight.*beyond float32"):
        prune(given, text_samples("classification", 8), 0.5, samples=8, **QUICK)


def test_heads_wider_than_a_block_of_threads():
    wide = tiny("llama", num_attention_heads=4, num_key_value_heads=1, head_dim=128).float()
    data = samples_for("llama")
    result = prune(wide, data, 0.5, samples=len(data), **QUICK)
    assert result.report.macs.kept <= 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"stages": None},
        {"align": 1.5},
        {"seq_len": "8"},
        {"stages": True},
        {"method": ""},
        {"fisher": "batch"},
    ],
    ids=str,
)
def test_wrong_types_and_idle_options_are_one_clear_line(options):
    with pytest.raises(FastpruneError) as error:
        prune(model(), text_samples("classification", 8), 0.5, samples=8, **options, **QUICK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"fisher": "typo"}, "unknown fisher"), ({"sites": []}, "no heads or filters left")],
)
def test_calibration_refuses_what_it_cannot_honour(options, match):
    with pytest.raises(DataError, match=match):
        fastprune.collect_statistics(model(), text_samples("classification", 4), **options)
