"""Nested choices: within budget, as large as the order allows, and one inside the other."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny

from fastprune import find_sites
from fastprune.budget import Prices, parse_budget, price_sites
from fastprune.errors import BudgetError
from fastprune.selection import Nested
from fastprune.selection.packed import split_packed, unit_counts

SHARES = (0.9, 0.7, 0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def sites():
    return find_sites(tiny("bert"))


@pytest.fixture(scope="module")
def order(sites):
    units = sum(site.units for site in sites)
    return torch.randperm(units, generator=torch.Generator().manual_seed(4))


def budgets_of(kind):
    return [parse_budget({kind: share}) for share in SHARES]


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_masks_are_prefixes_of_the_order_and_the_next_unit_is_one_too_many(sites, order, kind):
    prices = price_sites(sites, kind, 9)
    for budget, mask in zip(
        budgets_of(kind), Nested(order).masks(prices, budgets_of(kind)), strict=True
    ):
        kept = int(mask.sum())
        assert set(order[:kept].tolist()) == set(mask.nonzero().flatten().tolist())
        limit = budget.limit(prices.dense)
        assert prices.of_counts(unit_counts(mask, sites)) <= limit
        mask[order[kept]] = 1
        assert prices.of_counts(unit_counts(mask, sites)) > limit


@pytest.mark.parametrize(
    "options", [{}, {"align": 8}, {"uniform": ("attention", "ffn")}, {"uniform": ("ffn",)}]
)
def test_masks_of_several_budgets_are_nested_and_those_of_one_alone(sites, order, options):
    prices = price_sites(sites, "macs", 9)
    # Heads alone are 0.65 of this model, so filters alone do not get below 0.67.
    budgets = budgets_of("macs")[: 2 if options.get("uniform") == ("ffn",) else None]
    masks = Nested(order).masks(prices, budgets, **options)
    for larger, smaller in itertools.pairwise(masks):
        assert (smaller <= larger).all()
    alone = torch.cat([Nested(order).masks(prices, [budget], **options) for budget in budgets])
    assert torch.equal(masks, alone)
    for budget, mask in zip(budgets, masks, strict=True):
        assert prices.of_counts(unit_counts(mask, sites)) <= budget.limit(prices.dense)


@pytest.mark.parametrize("align", [2, 8, 16])
def test_aligned_counts_waste_less_than_one_step(sites, order, align):
    prices = price_sites(sites, "macs", 9)
    (mask,) = Nested(order).masks(prices, [parse_budget(0.5)], align=align)
    counts = unit_counts(mask, sites)
    for count, site in zip(counts, sites, strict=True):
        assert site.kind == "attention" or count % align == 0 or count == site.units
    step = max(prices.of_kind("attention"), align * prices.of_kind("ffn"))
    assert 0.5 * prices.dense - prices.of_counts(counts) < step
    parts = split_packed(torch.arange(len(order)), sites)
    position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    for (name, units), count in zip(parts.items(), counts, strict=True):
        first = position[units].argsort()[:count]
        assert set(first.tolist()) == set(
            split_packed(mask, sites)[name].nonzero().flatten().tolist()
        )


def test_uniform_widths_are_equal_and_never_empty(sites, order):
    prices = price_sites(sites, "macs", 9)
    masks = Nested(order).masks(prices, budgets_of("macs"), uniform=("attention", "ffn"))
    for mask in masks:
        counts = unit_counts(mask, sites)
        assert len(set(counts[::2])) == len(set(counts[1::2])) == 1
        assert min(counts) > 0
    (mask,) = Nested(order).masks(prices, [parse_budget(0.8)], uniform=("ffn",))
    assert unit_counts(mask, sites)[::2] == [4, 4, 4]


def test_units_need_not_cost_the_same(sites, order):
    """As under latency: a sublayer's first unit costs most of it, and there is a fixed part."""
    curves = tuple(np.append(0.0, 5.0 + np.arange(1, site.units + 1) / 8) for site in sites)
    prices = Prices(tuple(sites), curves, fixed=3.0)
    budgets = [parse_budget(share) for share in (0.9, 0.6)]
    for budget, mask in zip(budgets, Nested(order).masks(prices, budgets), strict=True):
        limit = budget.limit(prices.dense)
        assert prices.of_counts(unit_counts(mask, sites)) <= limit
        mask[order[int(mask.sum())]] = 1
        assert prices.of_counts(unit_counts(mask, sites)) > limit


@pytest.mark.parametrize("options", [{}, {"align": 8}, {"uniform": ("ffn",)}])
def test_what_is_out_of_reach_does_not_depend_on_the_order(sites, order, options):
    prices = price_sites(sites, "macs", 9)
    shares = set()
    for some in (order, torch.arange(len(order)), torch.arange(len(order)).flip(0)):
        with pytest.raises(BudgetError, match="smallest for this model is macs=") as error:
            Nested(some).masks(prices, [parse_budget("macs=1e-6")], **options)
        share = str(error.value).split(" is ")[1].split(" ")[0]
        (mask,) = Nested(some).masks(prices, [parse_budget(share)], **options)
        assert mask.sum() >= 1
        shares.add(share)
    assert len(shares) == 1


def test_uniform_widths_need_equal_layers(sites, order):
    some = [sites[0], sites[1], *sites[3:]]
    some[1] = replace(some[1], units=5)
    units = sum(site.units for site in some)
    with pytest.raises(BudgetError, match="same widths"):
        Nested(torch.arange(units)).masks(
            price_sites(some, "macs", 9), [parse_budget(0.5)], uniform=("ffn",)
        )
