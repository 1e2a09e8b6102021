"""The search against brute force over every pair of counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import tiny

from fastprune import find_sites
from fastprune.budget import Budget, parse_budget, price_sites
from fastprune.errors import BudgetError
from fastprune.selection import Ranked, search_masks
from fastprune.selection.packed import kind_columns, split_packed, unit_counts


@pytest.fixture(scope="module")
def sites():
    return find_sites(tiny("bert"))


@pytest.fixture
def importance(sites):
    return torch.rand(sum(site.units for site in sites), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.31, 0.1])
def test_no_other_choice_keeps_more_importance(sites, importance, kind, share):
    prices = price_sites(sites, kind, 9)
    (mask,) = search_masks(importance, prices, [Budget(kind, share)])
    heads, filters = (kind_columns(sites, k) for k in ("attention", "ffn"))
    limit = share * prices.dense
    assert prices.of_counts(unit_counts(mask, sites)) <= limit

    ranked = [importance[c].double().sort(descending=True).values for c in (heads, filters)]
    best = max(
        ranked[0][:h].sum() + ranked[1][:f].sum()
        for h, f in itertools.product(range(1, len(heads) + 1), range(len(filters) + 1))
        if h * prices.of_kind("attention") + f * prices.of_kind("ffn") <= limit
    )
    assert (importance.double() * mask).sum().item() == pytest.approx(best.item(), rel=1e-12)


def test_several_budgets_at_once_equal_one_at_a_time(sites, importance):
    prices = price_sites(sites, "macs", 9)
    budgets = [parse_budget(v) for v in (0.8, 0.5, 0.2)]
    together = search_masks(importance, prices, budgets)
    alone = torch.cat([search_masks(importance, prices, [b]) for b in budgets])
    assert torch.equal(together, alone)


def test_an_unreachable_budget_names_one_that_is_reachable(sites, importance):
    prices = price_sites(sites, "macs", 9)
    with pytest.raises(BudgetError, match="smallest for this model is macs=") as error:
        search_masks(importance, prices, [parse_budget("macs=1e-6")])
    smallest = str(error.value).split(" is ")[1].split(" ")[0]
    (mask,) = search_masks(importance, prices, [parse_budget(smallest)])
    assert mask.sum() >= 1


@pytest.mark.parametrize("align", [2, 8, 16])
def test_aligned_counts_stay_in_budget_and_waste_less_than_one_step(sites, importance, align):
    prices = price_sites(sites, "macs", 9)
    (mask,) = Ranked(importance).masks(prices, [parse_budget(0.5)], align=align)
    counts = unit_counts(mask, sites)
    spent = prices.of_counts(counts)
    assert spent <= 0.5 * prices.dense
    ffn = [(n, s) for n, s in zip(counts, sites, strict=True) if s.kind == "ffn"]
    assert all(n % align == 0 or n == site.units for n, site in ffn)
    room = [site for n, site in ffn if n < site.units]
    assert not room or 0.5 * prices.dense - spent < align * prices.of_kind("ffn")


def keep_top(importance, sites, counts):
    masks = []
    for part, count in zip(split_packed(importance, sites).values(), counts, strict=True):
        mask = torch.zeros(len(part))
        mask[part.sort(descending=True, stable=True).indices[:count]] = 1.0
        masks.append(mask)
    return torch.cat(masks)


def test_uniform_layers_are_equal_and_the_best_of_their_kind(sites, importance):
    prices = price_sites(sites, "macs", 9)
    budget = parse_budget(0.5)
    (mask,) = Ranked(importance).masks(prices, [budget], uniform=("attention", "ffn"))
    counts = unit_counts(mask, sites)
    assert len(set(counts[::2])) == len(set(counts[1::2])) == 1
    assert prices.of_counts(counts) <= 0.5 * prices.dense
    assert torch.equal(mask, keep_top(importance, sites, counts))
    for h, f in itertools.product(range(1, 5), range(1, 38)):
        other = [h if site.kind == "attention" else f for site in sites]
        if prices.of_counts(other) <= 0.5 * prices.dense:
            kept = (importance * keep_top(importance, sites, other)).sum()
            assert kept <= (importance * mask).sum() * (1 + 1e-6)


def test_uniform_pruning_of_filters_alone_says_what_it_can_reach(sites, importance):
    prices = price_sites(sites, "macs", 9)
    (mask,) = Ranked(importance).masks(prices, [parse_budget(0.8)], uniform=("ffn",))
    assert unit_counts(mask, sites)[::2] == [4, 4, 4]
    with pytest.raises(BudgetError, match="smallest for this model is macs="):
        Ranked(importance).masks(prices, [parse_budget(0.1)], uniform=("ffn",))


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_models_with_one_kind_of_site(sites, importance, kind):
    some = [site for site in sites if site.kind == kind]
    prices = price_sites(some, "macs", 9)
    scores = importance[kind_columns(sites, kind)]
    (mask,) = search_masks(scores, prices, [parse_budget(0.5)])
    assert 0 < prices.of_counts(unit_counts(mask, some)) <= 0.5 * prices.dense


def test_split_packed_keeps_order(sites, importance):
    parts = split_packed(importance, sites)
    assert list(parts) == [site.name for site in sites]
    assert torch.equal(torch.cat(list(parts.values())), importance)
