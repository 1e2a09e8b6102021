"""Pruning dimensions inside heads: from the settings to a model that is saved and read again."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import prune, sweep
from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.selection import METHODS
from fastprune.structure import all_head_widths, find_inner_sites, masked

FINE = ("dimensions", "shared-dimensions")
ABLE = [name for name, method in METHODS.items() if method.inside_heads]
QUICK = {"samples": 16, "latency": False}


def macs_of(model, seq_len):
    """Of the prunable part, counted from shapes: nothing of sites and prices is used."""
    total = 0.0
    for layer in model.base_model.encoder.layer:
        matrices = (p for p in layer.parameters() if p.ndim == 2)
        # What stands where nothing is left, and multiplies nothing, has a single element.
        total += seq_len * sum(p.numel() for p in matrices if p.numel() > 1)
    for widths in all_head_widths(model):
        total += seq_len**2 * (sum(widths.qk) + sum(widths.v))
    return total


@pytest.mark.parametrize("granularity", FINE)
@pytest.mark.parametrize("method", ABLE)
@pytest.mark.parametrize("tune", ["none", "weights"])
def test_budgets_are_met_and_masks_are_what_went(method, tune, granularity, tmp_path):
    model, data = tiny("bert").float(), text_samples("classification", 24)
    result = prune(
        model, data, "macs=0.6", method=method, tune=tune, granularity=granularity, **QUICK
    )
    report = result.report
    assert 0.5 < report.macs.kept <= 0.6
    assert report.macs.pruned == pytest.approx(macs_of(result.model, report.seq_len))
    assert report.macs.dense == pytest.approx(macs_of(model, report.seq_len))
    sites = find_inner_sites(model, shared=granularity == "shared-dimensions")
    assert list(result.masks) == [site.name for site in sites]
    counts = report.units
    for site in sites:
        kept = int(result.masks[site.name].sum()) * site.heads
        kinds = {"qk": "query-key dimensions", "v": "value dimensions", "ffn": "filters"}
        if site.kind == "ffn":
            assert counts["filters"][site.layer] == kept
        elif site.kind in ("qk", "v") and all(w.v for w in all_head_widths(result.model)):
            # A head without value dimensions goes, with its query-key dimensions.
            assert counts[kinds[site.kind]][site.layer] <= kept
    inputs = {k: v for k, v in next(data.batches(8)).items() if k != "labels"}
    with torch.no_grad():
        logits = result.model(**inputs).logits
        if tune == "none":
            with masked(model, result.masks, sites):
                torch.testing.assert_close(logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)
        result.save_pretrained(tmp_path / "out")
        again = fastprune.load_pretrained(tmp_path / "out")
        assert torch.equal(again(**inputs).logits, logits)


@pytest.mark.parametrize("granularity", FINE)
def test_masks_of_a_path_are_nested(granularity):
    model, data = tiny("bert").float(), text_samples("classification", 24)
    budgets = [f"macs={share}" for share in (0.3, 0.5, 0.7, 0.9)]
    points = [
        prune(model, data, budget, method="spp", tune="none", granularity=granularity, **QUICK)
        for budget in budgets
    ]
    for small, large in itertools.pairwise(points):
        for name, mask in small.masks.items():
            assert torch.all(mask <= large.masks[name])


@pytest.mark.parametrize("family", ["distilbert", "vit", "opt"])
def test_families(family):
    options = {"granularity": "dimensions", "latency": False}
    result = prune(tiny(family).float(), samples_for(family), 0.7, method="spp", **options)
    assert 0 < result.report.macs.kept <= 0.7
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_a_sweep_keeps_statistics_of_granularities_apart(tmp_path):
    model, data = tiny("bert").float(), text_samples("classification", 24)
    scores = {}
    for granularity in ("heads", *FINE, *FINE):
        swept = sweep(
            model, data, ["macs=0.8", "macs=0.5"], method="spp", tune="none", eval_data=data,
            granularity=granularity, cache=tmp_path, **QUICK,
        )  # fmt: skip
        found = [(point.score, point.macs) for point in swept.points]
        assert scores.setdefault(granularity, found) == found


@pytest.mark.parametrize("granularity", FINE)
def test_a_sweep_is_resumed_and_widths_of_ffns_are_aligned(granularity, tmp_path):
    model, data, out = tiny("bert").float(), text_samples("classification", 24), tmp_path / "out"
    options = {"method": "spp", "align": 4, "eval_data": data, "cache": False, **QUICK}
    first = sweep(model, data, ["macs=0.7"], out=out, granularity=granularity, **options)
    both = sweep(
        model, data, ["macs=0.5"], out=out, granularity=granularity, resume=True, **options
    )
    assert [point.report for point in both.points][:1] == [p.report for p in first.points]
    assert both.pick("accuracy>=0").budget == "macs=0.5"
    for point in both.points:
        widths = point.report["units"]["filters"]
        assert all(width % 4 == 0 or width == 37 for width in widths)
    with pytest.raises(FastpruneError, match="another model, data or settings"):
        sweep(model, data, ["macs=0.5"], out=out, resume=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "rows"}, "unknown granularity 'rows'"),
        ({"method": "obs"}, "use method fisher, spp, spp-passes, random"),
        ({"method": "kprune"}, "chooses among whole heads"),
        ({"tune": "scale"}, "does not go with tune=scale"),
        ({"tune": "bias"}, "does not go with tune=bias"),
        ({"stages": 2}, "does not go with stages=2"),
        ({"teacher": "staged"}, "does not go with teacher=staged"),
        ({"uniform": True}, "does not go with uniform=True"),
        ({"budget": "latency=0.7"}, "use a budget in macs or params"),
    ],
)
def test_what_does_not_go_together(options, message):
    given = {"method": "spp", "granularity": "dimensions", "budget": 0.5, **QUICK, **options}
    with pytest.raises(FastpruneError, match=message):
        prune(tiny("bert").float(), text_samples("classification", 24), **given)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_models_that_are_not_cut_this_finely_are_told_before_data_are_read(family):
    with pytest.raises(UnsupportedModelError, match="pruned one by one"):
        prune(tiny(family).float(), "nowhere.tsv", method="spp", granularity="dimensions")


def test_tokens_are_reduced_on_top():
    options = {"method": "random", "granularity": "dimensions", "latency": False}
    result = prune(tiny("vit").float(), samples_for("vit"), 0.7, tokens=0.1, **options)
    assert "tokens" in result.report.units


def test_a_pruned_model_is_pruned_on():
    data = text_samples("classification", 24)
    options = {"method": "spp", "granularity": "dimensions", **QUICK}
    once = prune(tiny("bert").float(), data, "macs=0.7", **options)
    twice = prune(once.model, data, "macs=0.5", **options)
    assert 0 < twice.report.macs.kept <= 0.5
