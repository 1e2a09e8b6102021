"""From two losses to one score."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny

from fastprune import find_sites
from fastprune.optin import Losses, mixed, mixed_as_released


@pytest.fixture
def sites():
    return find_sites(tiny("bert"))


def random_losses(sites, seed=0):
    """Over many powers of ten, either one the larger, some zero."""
    generator = torch.Generator().manual_seed(seed)
    units = sum(site.units for site in sites)
    powers = 6 * torch.rand(2, units, generator=generator, dtype=torch.float64) - 3
    trajectory, prediction = 10**powers
    prediction[::7] = 0
    trajectory[::11] = 0
    return Losses(trajectory, prediction)


def test_one_weight_for_all(sites):
    losses = random_losses(sites)
    expected = losses.trajectory + 0.1 * losses.prediction
    torch.testing.assert_close(mixed(losses, sites), expected, rtol=1e-15, atol=0)


def released(losses, sites):
    """Unit after unit, as the code goes: all heads, then all filters."""
    last = max(site.layer for site in sites)
    starts = [sum(s.units for s in sites[:i]) for i in range(len(sites))]
    scores = torch.zeros_like(losses.trajectory)
    for kind, first in (("attention", 10.0), ("ffn", 100.0)):
        earlier = []
        for start, site in zip(starts, sites, strict=True):
            if site.kind != kind:
                continue
            for unit in range(site.units):
                md = losses.trajectory[start + unit].item()
                kd = losses.prediction[start + unit].item()
                if md > kd > 0:
                    s = 10.0 ** math.trunc(math.log10(md / kd) - math.log10(10))
                    earlier.append(s)
                else:
                    s = sum(earlier) / len(earlier) if earlier else 1.0
                score = (md + s * kd) * first ** (1 - unit / (site.units - 1))
                score *= 0.5 if kind == "attention" else 1.0
                score *= 0.5 if site.layer == last else 1.0
                scores[start + unit] = score
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_the_released_form_unit_by_unit(sites, seed):
    losses = random_losses(sites, seed)
    found, expected = mixed_as_released(losses, sites), released(losses, sites)
    # Running sums of up to 111 powers of ten instead of means from scratch.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_its_first_scale_is_one(sites):
    losses = random_losses(sites)
    losses.trajectory[:] = 0
    losses.prediction[:] = 1
    assert mixed_as_released(losses, sites)[0] == 0.5 * 10


def test_a_layer_may_have_one_unit_and_a_model_one_kind(sites):
    few = [replace(site, units=1) for site in sites if site.kind == "ffn"]
    losses = Losses(torch.full((3,), 2.0).double(), torch.full((3,), 0.5).double())
    # log10(4) - 1 is cut to 0: the scale is one; the first unit of a layer counts a hundredfold.
    assert mixed_as_released(losses, few).tolist() == [250.0, 250.0, 125.0]
