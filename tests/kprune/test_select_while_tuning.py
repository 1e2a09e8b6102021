"""The walk with somebody who looks in, and shrinks what the walk is about to reach."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny
from tiny_samples import samples_for

from fastprune import compact, find_sites
from fastprune.compaction.surgery import shrink_
from fastprune.kprune import Reference
from fastprune.structure import layer_units
from fastprune.tuning import TUNERS, tune

WEIGHTS = TUNERS["weights"]


def same(ours, theirs):
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_looking_in_changes_nothing(family, dtype):
    model, samples = tiny(family).float(), samples_for(family)
    masks = random_masks(find_sites(model))
    plain, watched = (compact(model, masks) for _ in range(2))
    reference = Reference(model, samples, dtype=dtype)
    seen = []

    def look(site):
        seen.append(site)
        ahead = [s for s in find_sites(watched) if s in seen[-1:] or s not in seen]
        reference.score(watched, ahead)

    expected = tune(model, plain, samples, WEIGHTS, dtype=dtype)
    found = tune(model, watched, samples, WEIGHTS, dtype=dtype, approach=look)
    assert seen == find_sites(watched)
    assert found == expected
    assert same(watched, plain)


@pytest.mark.parametrize("empty", [(), (2, 5)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_shrinking_on_the_way_is_shrinking_before(family, empty):
    model, samples = tiny(family).float(), samples_for(family)
    sites = find_sites(model)
    masks = random_masks(sites)
    for index in empty:
        masks[sites[index].name][:] = 0
    before, late = compact(model, masks), compact(model, {})
    expected = tune(model, before, samples, WEIGHTS)
    found = tune(
        model,
        late,
        samples,
        WEIGHTS,
        approach=lambda site: shrink_(late, {site.name: masks[site.name]}),
    )
    assert found == expected
    assert same(late, before)
    assert late.config.to_dict() == before.config.to_dict()


def test_shrinking_in_place_is_compacting():
    model = tiny("bert")
    masks = random_masks(find_sites(model))
    masks[find_sites(model)[2].name][:] = 0
    late = compact(model, {})
    shrink_(late, {})
    assert not hasattr(late.config, "quantization_config")
    shrink_(late, masks)
    assert same(late, compact(model, masks))
    assert late.config.quantization_config.to_dict()["units"] == layer_units(late)
