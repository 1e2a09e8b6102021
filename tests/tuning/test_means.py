"""Means kept in the bias against outputs of the dense projection."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_masks, tiny

from fastprune import compact, find_sites
from fastprune.structure import get_projection
from fastprune.tuning import keep_means


def means_of(sites):
    generator = torch.Generator().manual_seed(3)
    return {s.name: torch.randn(s.columns, generator=generator, dtype=torch.float64) for s in sites}


@pytest.mark.parametrize("emptied", [False, True])
def test_at_the_mean_input_nothing_changes(emptied):
    model = tiny("bert")
    sites = find_sites(model)
    masks = random_masks(sites)
    if emptied:
        masks[sites[0].name].zero_()
        masks[sites[3].name].zero_()
    pruned, means = compact(model, masks), means_of(sites)
    outcomes = keep_means(model, pruned, sites, masks, means)
    assert [entry.failure for entry in outcomes] == [None] * len(sites)
    for site in sites:
        kept = masks[site.name].bool().repeat_interleave(site.group)
        weight, bias = get_projection(model, site)
        left, corrected = get_projection(pruned, site)
        x = means[site.name]
        ours = corrected + (left @ x[kept] if kept.any() else 0)
        assert (ours - (weight @ x + bias)).abs().max() <= 1e-12 * site.columns


def test_projections_without_a_bias_stay_and_say_so():
    model = tiny("llama")
    sites = find_sites(model)
    masks = random_masks(sites)
    pruned = compact(model, masks)
    before = [get_projection(pruned, site)[0].clone() for site in find_sites(pruned)]
    outcomes = keep_means(model, pruned, sites, masks, means_of(sites))
    assert all("no bias" in str(entry.failure) for entry in outcomes)
    after = [get_projection(pruned, site)[0] for site in find_sites(pruned)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_sites_that_lost_nothing_are_left_alone():
    model = tiny("bert")
    sites = find_sites(model)
    masks = {site.name: torch.ones(site.units) for site in sites}
    assert keep_means(model, compact(model, masks), sites, masks, means_of(sites)) == []
