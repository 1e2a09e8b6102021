"""Mask gradients of dimensions inside heads, sample by sample."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_masks, tiny
from tiny_samples import samples_for

from fastprune.calibration import collect_statistics
from fastprune.calibration.gradients import watch_gradients
from fastprune.compaction import compact
from fastprune.errors import DataError
from fastprune.structure import find_inner_sites, masked
from fastprune.structure.inputs import dummy_inputs

# About 100 terms, through six sublayers and back.
ROUNDING = 12 * 128 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("narrowed", [False, True])
@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
def test_they_are_the_derivatives_by_masks(family: str, narrowed: bool, shared: bool) -> None:
    """Autograd of real masks, one sample at a time, is the reference."""
    model = tiny(family)
    if narrowed:
        sites = find_inner_sites(model, shared=shared)
        model = compact(model, random_masks(sites), sites)
    sites = find_inner_sites(model, shared=shared)
    inputs = dummy_inputs(model.float())
    with watch_gradients(model, sites) as gradients:
        gradients.begin(2, inputs.get("attention_mask"))
        model(**inputs).logits.square().sum().backward()
        found = gradients.take()
    inputs = {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}
    model.double()
    for sample in range(2):
        ones = [torch.ones(s.units, dtype=torch.float64, requires_grad=True) for s in sites]
        masks = {site.name: mask for site, mask in zip(sites, ones, strict=True)}
        with masked(model, masks, sites):
            alone = {name: values[sample : sample + 1] for name, values in inputs.items()}
            model(**alone).logits.square().sum().backward()
        expected = torch.cat([mask.grad for mask in ones])
        atol = ROUNDING * float(expected.abs().max())
        torch.testing.assert_close(found[sample].double(), expected, rtol=0, atol=atol)


def test_fisher_information_of_dimensions() -> None:
    model = tiny("bert").float()
    sites = find_inner_sites(model, shared=True)
    statistics = collect_statistics(
        model, samples_for("bert"), sites=sites, output_fisher=False, input_moments=False
    )
    assert statistics.importance().shape == (sum(s.units for s in sites),)
    assert (statistics.importance() > 0).all()
    with pytest.raises(DataError, match="no moments"):
        collect_statistics(model, samples_for("bert"), sites=sites)
