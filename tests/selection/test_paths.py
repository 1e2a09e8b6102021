"""Allocation along removal paths against brute force over every combination of counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_models import tiny

from fastprune import find_sites
from fastprune.budget import parse_budget, price_sites
from fastprune.errors import BudgetError
from fastprune.selection import Paths, RemovalPath
from fastprune.selection.packed import split_packed, unit_counts


@pytest.fixture(scope="module")
def sites():
    return find_sites(tiny("bert", num_hidden_layers=2, intermediate_size=7))


@pytest.fixture(scope="module")
def paths(sites):
    """Random orders, and errors that neither fall evenly nor are convex."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for site in sites:
        steps = torch.rand(site.units, generator=generator).numpy().astype(np.float64)
        errors = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
        found.append(RemovalPath(torch.randperm(site.units, generator=generator), errors))
    return found


def best(sites, paths, prices, limit, allowed):
    totals = [
        sum(path.errors[k] for path, k in zip(paths, counts, strict=True))
        for counts in itertools.product(*(range(site.units + 1) for site in sites))
        if prices.of_counts(counts) <= limit and allowed(counts)
    ]
    return min(totals)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.25, 0.15])
def test_no_other_counts_cost_less(sites, paths, kind, share):
    prices = price_sites(sites, kind, 9)
    (mask,) = Paths(paths).masks(prices, [parse_budget({kind: share})])
    counts = unit_counts(mask, sites)
    assert prices.of_counts(counts) <= share * prices.dense
    total = sum(path.errors[k] for path, k in zip(paths, counts, strict=True))
    expected = best(sites, paths, prices, share * prices.dense, lambda counts: True)
    assert total == pytest.approx(expected, rel=1e-9)


def test_masks_keep_what_goes_last(sites, paths):
    prices = price_sites(sites, "macs", 9)
    (mask,) = Paths(paths).masks(prices, [parse_budget(0.5)])
    for part, path in zip(split_packed(mask, sites).values(), paths, strict=True):
        kept = int(part.sum())
        assert set(part.nonzero().flatten().tolist()) == set(
            path.order.tolist()[len(part) - kept :]
        )


def test_budgets_are_nested_where_one_site_is_all_there_is(sites, paths):
    prices = price_sites(sites[1:2], "macs", 9)
    budgets = [parse_budget(b) for b in (0.9, 0.6, 0.3)]
    large, middle, small = Paths(paths[1:2]).masks(prices, budgets).bool()
    assert (small <= middle).all()
    assert (middle <= large).all()


def test_aligned_counts_are_the_best_of_their_kind(sites, paths):
    prices = price_sites(sites, "macs", 9)
    (mask,) = Paths(paths).masks(prices, [parse_budget(0.6)], align=3)
    counts = unit_counts(mask, sites)

    def aligned(counts):
        return all(
            n % 3 == 0 or n == site.units
            for n, site in zip(counts, sites, strict=True)
            if site.kind == "ffn"
        )

    assert aligned(counts)
    total = sum(path.errors[k] for path, k in zip(paths, counts, strict=True))
    expected = best(sites, paths, prices, 0.6 * prices.dense, aligned)
    assert total == pytest.approx(expected, rel=1e-9)


def test_uniform_layers_are_equal_and_the_best_of_their_kind(sites, paths):
    prices = price_sites(sites, "macs", 9)
    (mask,) = Paths(paths).masks(prices, [parse_budget(0.6)], uniform=("attention", "ffn"))
    counts = unit_counts(mask, sites)

    def uniform(counts):
        return counts[0] == counts[2] > 0 and counts[1] == counts[3] > 0

    assert uniform(counts)
    total = sum(path.errors[k] for path, k in zip(paths, counts, strict=True))
    expected = best(sites, paths, prices, 0.6 * prices.dense, uniform)
    assert total == pytest.approx(expected, rel=1e-9)


def test_uniform_budgets_out_of_reach_name_the_smallest(sites, paths):
    prices = price_sites(sites, "macs", 9)
    with pytest.raises(BudgetError, match="smallest for this model is macs=") as error:
        Paths(paths).masks(prices, [parse_budget(0.2)], uniform=("ffn",))
    share = str(error.value).rsplit(" is ", 1)[1].split(" ")[0]
    assert len(Paths(paths).masks(prices, [parse_budget(share)], uniform=("ffn",))) == 1


def test_a_budget_below_one_unit_is_refused(sites, paths):
    with pytest.raises(BudgetError, match="smallest for this model is"):
        Paths(paths).masks(price_sites(sites, "macs", 9), [parse_budget("macs=1e-6")])
