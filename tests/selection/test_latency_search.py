"""Selection under latency budgets: against brute force, and against the released algorithm.

Kwon et al. 2022, section 4.1, algorithm 2; the released code shrinks its limit at every iteration.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from latency_tables import known_table
from tiny_models import tiny

from fastprune import find_sites, parse_budget
from fastprune.budget import price_sites
from fastprune.errors import BudgetError
from fastprune.selection import METHODS, Paths, Ranked
from fastprune.selection.packed import unit_counts
from fastprune.selection.ranked import ranked_paths

TABLES = {
    "steps": (lambda n: 0.5 * -(-n // 2), lambda n: 0.4 * -(-n // 4)),
    "a threshold, then a slope": (lambda n: max(1.0, 0.4 * n), lambda n: max(0.8, 0.3 * n)),
    "more units that take less": (
        lambda n: [0.0, 1.0, 3.0, 2.0, 2.5][n],
        lambda n: 0.3 * n + (n % 2),
    ),
}


@pytest.fixture(scope="module")
def model():
    return tiny("bert", num_hidden_layers=2, intermediate_size=7)


@pytest.fixture(scope="module")
def sites(model):
    return find_sites(model)


@pytest.fixture(scope="module")
def importance(sites):
    return torch.rand(sum(site.units for site in sites), generator=torch.Generator().manual_seed(4))


def prices_of(model, name, fixed=2.0):
    attention, ffn = TABLES[name]
    table = known_table(model, attention, lambda n: ffn(n) if n else 0.0, fixed)
    return price_sites(find_sites(model), "latency", 9, table)


def lost(paths, counts):
    return sum(path.errors[k] for path, k in zip(paths, counts, strict=True))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("share", [0.9, 0.7, 0.55, 0.45])
def test_no_other_counts_lose_less(model, sites, importance, name, share):
    prices, paths = prices_of(model, name), ranked_paths(importance, sites)
    (mask,) = Ranked(importance).masks(prices, [parse_budget({"latency": share})])
    counts, limit = unit_counts(mask, sites), share * prices.dense
    assert prices.of_counts(counts) <= limit * (1 + 1e-12)
    everything = itertools.product(*(range(site.units + 1) for site in sites))
    best = min(lost(paths, c) for c in everything if prices.of_counts(c) <= limit)
    assert lost(paths, counts) == pytest.approx(best, rel=1e-9)


def test_milliseconds_are_those_of_the_whole_model(model, sites, importance):
    prices = prices_of(model, "steps", fixed=100.0)
    share = 102.0 / prices.dense
    masks = Ranked(importance).masks(prices, [parse_budget("latency=102ms")])
    assert torch.equal(
        masks, Ranked(importance).masks(prices, [parse_budget({"latency": share + 1e-9})])
    )
    assert prices.of_counts(unit_counts(masks[0], sites)) <= 102.0


def test_whole_sublayers_go_where_the_first_unit_is_what_costs(model, sites, importance):
    """With a unit in it a sublayer takes 3 ms, however many: then two whole ones are best."""
    table = known_table(model, lambda n: 3.0, lambda n: 3.0, fixed=0.0)
    prices = price_sites(sites, "latency", 9, table)
    (mask,) = Ranked(importance).masks(prices, [parse_budget("latency=0.5")])
    counts = unit_counts(mask, sites)
    assert sorted(n / site.units for n, site in zip(counts, sites, strict=True)) == [0, 0, 1, 1]


def test_counts_that_a_larger_one_does_not_exceed_are_not_chosen(model, sites, importance):
    """Where three heads take less than two, nobody stops at two."""
    for share in np.linspace(0.2, 0.95, 16):
        masks = Ranked(importance).masks(
            prices_of(model, "more units that take less"), [parse_budget({"latency": share})]
        )
        counts = unit_counts(masks[0], sites)
        assert all(n != 2 for n, s in zip(counts, sites, strict=True) if s.kind == "attention")


def test_filters_go_by_multiples(model, sites, importance):
    prices = prices_of(model, "a threshold, then a slope")
    masks = Ranked(importance).masks(prices, [parse_budget("latency=0.6")], align=3)
    counts = unit_counts(masks[0], sites)
    assert all(n in (0, 3, 6, 7) for n, s in zip(counts, sites, strict=True) if s.kind == "ffn")


def test_uniform_layers_are_equal_and_fit(model, sites, importance):
    prices = prices_of(model, "steps")
    masks = Ranked(importance).masks(
        prices, [parse_budget("latency=0.85")], align=8, uniform=("attention", "ffn")
    )
    counts = unit_counts(masks[0], sites)
    assert counts[0] == counts[2] > 0
    assert counts[1] == counts[3] > 0
    assert prices.of_counts(counts) <= 0.85 * prices.dense


@pytest.mark.parametrize("method", [name for name in METHODS if name != "kprune"])
def test_budgets_out_of_reach_name_the_smallest(model, sites, method):
    """The rest of the model takes its time, whatever is pruned."""
    prices, chooser = prices_of(model, "steps"), METHODS[method].blind(sites)
    with pytest.raises(BudgetError, match="smallest for this model is latency=") as error:
        chooser.masks(prices, [parse_budget("latency=0.2")])
    # Where units enter in an order that is not known yet, the first may be the dearest.
    least = "2.5" if method.startswith("spp") else "2.4"
    assert f"{least} of {prices.dense:.4g} ms" in str(error.value)
    smallest = str(error.value).split(" is ")[1].split(" ")[0]
    assert chooser.masks(prices, [parse_budget(smallest)]).shape[0] == 1
    with pytest.raises(BudgetError, match="keeps everything"):
        chooser.masks(prices, [parse_budget("latency=1000ms")])


def released_search(importance, sites, paths, constants, slopes, limit, *, shrinking):
    """The least loss that the search of Kwon et al. 2022 over dropped sublayers finds.

    A sublayer takes ``constants[kind]`` up to the threshold, which is half its units, and
    ``slopes[kind]`` for each further unit. Sublayers are dropped by total importance, least first.
    The rest of the limit goes to the units ranked first, by importance per millisecond.

    Args:
        shrinking: what is spent on the thresholds of one number of dropped sublayers is missing
            for all later ones, as in the released code.
    """
    scores = dict(zip(sites, importance.double().split([s.units for s in sites]), strict=True))
    by_kind = {kind: [s for s in sites if s.kind == kind] for kind in ("attention", "ffn")}
    ranked = {k: sorted(v, key=lambda s: float(scores[s].sum())) for k, v in by_kind.items()}
    threshold = {site: site.units // 2 for site in sites}
    best = np.inf
    for heads_off, filters_off in itertools.product(range(3), range(3)):
        kept = [*ranked["attention"][heads_off:], *ranked["ffn"][filters_off:]]
        spent = sum(constants[site.kind] for site in kept)
        if shrinking:
            limit -= spent
            left = limit
        else:
            left = limit - spent
        if left < 0:
            continue
        counts = {site: threshold[site] for site in kept}
        further = [
            (float(score) / slopes[site.kind], site)
            for site in kept
            for score in scores[site].sort(descending=True).values[threshold[site] :]
        ]
        for _, site in sorted(further, key=lambda pair: -pair[0]):
            if slopes[site.kind] <= left:
                left -= slopes[site.kind]
                counts[site] += 1
        best = min(best, lost(paths, [counts.get(site, 0) for site in sites]))
    return best


def test_better_than_the_released_search_with_and_without_its_defect(model, sites, importance):
    constants, slopes = {"attention": 1.0, "ffn": 1.0}, {"attention": 0.5, "ffn": 0.25}
    halves = {"attention": 2, "ffn": 3}

    def takes(kind):
        return lambda n: constants[kind] + slopes[kind] * max(0, n - halves[kind]) if n else 0.0

    table = known_table(model, takes("attention"), takes("ffn"), fixed=0.0)
    prices, paths = price_sites(sites, "latency", 9, table), ranked_paths(importance, sites)
    assert prices.dense == 8.0
    (mask,) = Paths(paths).masks(prices, [parse_budget("latency=3.5ms")])
    ours = lost(paths, unit_counts(mask, sites))
    given = (importance, sites, paths, constants, slopes, 3.5)
    repaired = released_search(*given, shrinking=False)
    released = released_search(*given, shrinking=True)
    assert ours <= repaired < released
