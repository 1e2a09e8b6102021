"""Models whose heads have lost dimensions go through the whole way like any other."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import random_masks, tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import prune
from fastprune.compaction import compact
from fastprune.selection import METHODS
from fastprune.structure import find_inner_sites, find_sites
from fastprune.tuning import TUNERS, tune


def narrowed(family="bert", *, shared=False):
    """All heads of layer 0 are one unit, those of layer 1 attend uniformly, unless shared."""
    model = tiny(family).float()
    sites = find_inner_sites(model, shared=shared)
    masks = random_masks(sites)
    if not shared:
        masks[sites[3].name][:] = 0
        masks[sites[6].name][:] = masks[sites[7].name][:] = 1
    return compact(model, masks, sites)


@pytest.mark.parametrize("tune", ["none", "bias", "scale", "weights"])
@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if not method.while_tuning]
)
def test_every_method_prunes_them_on(method, tune, tmp_path):
    assert_pruned(method, tune, tmp_path)


@pytest.mark.parametrize("method", ["kprune", "cofi"])
def test_selection_while_tuning_prunes_them_on(method, tmp_path):
    assert_pruned(method, None, tmp_path)


def assert_pruned(method, tune, tmp_path):
    data = text_samples("classification", 12)
    result = prune(narrowed(), data, 0.6, method=method, tune=tune, samples=12, latency=False)
    assert 0 < result.report.macs.kept <= 0.6
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    result.save_pretrained(tmp_path / "out")
    loaded = fastprune.load_pretrained(tmp_path / "out")
    inputs = {
        k: v for k, v in next(data.batches(4)).items() if k in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, result.model(**inputs).logits)


@pytest.mark.parametrize("method", ["fisher", "obs"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
def test_equally_narrow_heads_are_pruned_one_by_one(family, method):
    data = samples_for(family)
    given = narrowed(family, shared=True)
    result = prune(given, data, 0.5, method=method, samples=len(data), latency=False)
    assert 0.35 < result.report.macs.kept <= 0.5
    assert all(s.group == 5 for s in find_sites(result.model) if s.kind == "attention")


def test_tuning_takes_what_is_left_closer_to_the_dense_model():
    """The student's attention has other columns than the teacher's; the solver sees these alone."""
    data = text_samples("classification", 16)
    dense = tiny("bert").float()
    sites = find_inner_sites(dense)
    student = compact(dense, random_masks(sites, keep=0.8), sites)
    inputs = next(data.batches(16))
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask")}

    def distance() -> float:
        with torch.no_grad():
            return float((student(**inputs).logits - dense(**inputs).logits).norm())

    before = distance()
    tune(dense, student, data, TUNERS["weights"])
    assert distance() < before


def test_reports_count_dimensions_where_heads_have_lost_some():
    data = text_samples("classification", 12)
    result = prune(narrowed(), data, 0.9, samples=12, latency=True, eval_data=data)
    units = json.loads(json.dumps(result.report.to_dict()))["units"]
    assert set(units) == {"heads", "filters", "query-key dimensions", "value dimensions"}
    assert units["query-key dimensions"][1] == 0
    dense = prune(tiny("bert").float(), data, 0.9, samples=12, latency=False)
    assert set(dense.report.units) == {"heads", "filters"}
