"""One threshold for what is left, of sites and of the budget."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import tiny

from fastprune import find_sites
from fastprune.budget import price_sites
from fastprune.kprune.threshold import keep_best


@pytest.fixture(scope="module", params=["macs", "params"])
def prices(request):
    return price_sites(find_sites(tiny("bert")), request.param, 9.7)


def units(prices, start=0):
    return sum(site.units for site in prices.sites[start:])


def spent(prices, decided, kept):
    return prices.of_counts([*decided, *(int(mask.sum()) for mask in kept)])


@pytest.mark.parametrize("share", [0.03, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("decided", [[], [2], [1, 5, 0]], ids=str)
def test_what_is_worth_most_is_kept_and_fits(prices, share, decided):
    limit = share * prices.dense + prices.of_counts([*decided, *[0] * (6 - len(decided))])
    worth = np.random.RandomState(0).rand(units(prices, len(decided)))
    kept = keep_best(worth, prices, decided, limit)
    sites = prices.sites[len(decided) :]
    assert [len(mask) for mask in kept] == [site.units for site in sites]
    cost = spent(prices, decided, kept)
    assert cost <= limit
    price = np.repeat(prices.per_unit[len(decided) :], [site.units for site in sites])
    flat = np.concatenate(kept)
    affordable = price <= share * prices.dense
    dropped = ~flat & affordable
    assert worth[flat].min(initial=1) >= worth[dropped].max(initial=0)
    # The best of those that were dropped is the one that does not fit.
    if dropped.any():
        best = np.flatnonzero(dropped)[worth[dropped].argmax()]
        assert cost + price[best] > limit * (1 - 1e-12)


def test_an_exact_budget_is_spent_to_the_last_unit(prices):
    worth = np.arange(units(prices), 0, -1.0)
    for counts in ([4, 37, 1, 0, 0, 0], [4, 37, 4, 37, 4, 36]):
        limit = sum(n * price for n, price in zip(counts, prices.per_unit, strict=True))
        kept = keep_best(worth, prices, [], limit)
        assert [int(mask.sum()) for mask in kept] == counts


def test_units_beyond_all_that_is_left_do_not_block_the_others(prices):
    worth = np.concatenate(
        [np.full(site.units, 1.0 + (site.kind == "attention")) for site in prices.sites]
    )
    limit = 3 * min(prices.per_unit)
    assert limit < max(prices.per_unit)
    kept = keep_best(worth, prices, [], limit)
    assert [int(mask.sum()) for mask in kept] == [0, 3, 0, 0, 0, 0]


def test_nothing_fits_into_nothing(prices):
    kept = keep_best(np.ones(units(prices)), prices, [], 0.0)
    assert not np.concatenate(kept).any()
