"""Costs in closed form, and the walk from the least important token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import tiny

from fastprune import parse_budget
from fastprune.budget.costs import macs_per_unit
from fastprune.errors import BudgetError
from fastprune.merging.reduction import check_schedule
from fastprune.structure import find_sites
from fastprune.tokens.schedule import find_schedule, macs_at


@pytest.fixture(scope="module")
def deit_small():
    config = hf.DeiTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    with torch.device("meta"):
        return find_sites(hf.DeiTForImageClassification(config))


def test_costs_of_deit_small(deit_small):
    """The figures of OPTIN's code, which counts 196 tokens."""
    prices = {site.kind: macs_per_unit(site, 196) for site in deit_small}
    assert prices == {"attention": 24_184_832, "ffn": 150_528}
    assert macs_at(deit_small, [196] * 12) == 4_515_840_000


def test_every_block_pays_for_its_own_tokens(deit_small):
    tokens = [197, 181, 181, 150, 120, 90, 61, 40, 30, 20, 10, 2]
    expected = sum(n * (4 * 384**2 + 2 * 384 * 1536) + 2 * n**2 * 384 for n in tokens)
    assert macs_at(deit_small, tokens) == expected


def plain_walk(importance, sites, limit, special):
    """Sets of positions instead of counts."""
    layers, patches = importance.shape
    kept = [set(range(patches)) for _ in range(layers)]
    walk = sorted(
        ((importance[i, p], -i, p) for i in range(1, layers) for p in range(patches)),
    )
    for _, i, p in walk:
        for later in kept[-i:]:
            later.discard(p)
        schedule = [patches]
        for block in kept[1:]:
            schedule.append(max(len(block), schedule[-1] // 2, 1))
        schedule = [n + special for n in schedule]
        if macs_at(sites, schedule) <= limit:
            return schedule
    raise AssertionError("never met")


@pytest.mark.parametrize("budget", ["macs=0.95", "macs=0.8", "macs=0.6", "macs=0.5"])
@pytest.mark.parametrize("seed", range(3))
def test_walk_equals_the_plain_one(budget, seed):
    sites = find_sites(tiny("vit", patch_size=2, num_hidden_layers=5))
    # Few different values, so that ties occur.
    importance = np.random.default_rng(seed).integers(1, 20, (5, 16)).astype(float)
    found = find_schedule(importance, sites, parse_budget(budget), 1)
    limit = parse_budget(budget).value * macs_at(sites, [17] * 5)
    assert found == plain_walk(importance, sites, limit, 1)
    assert macs_at(sites, found) <= limit
    check_schedule(found, 5, 17, 1)


def test_what_matters_least_goes_where_it_matters_least():
    """Tokens that are worthless from block 2 on leave there, and no others go before."""
    sites = find_sites(tiny("vit", patch_size=2, num_hidden_layers=4))
    importance = np.full((4, 16), 10.0)
    importance[2:, :6] = 0.0
    dense = macs_at(sites, [17] * 4)
    budget = parse_budget({"macs": macs_at(sites, [17, 17, 11, 11]) / dense + 1e-9})
    assert find_schedule(importance, sites, budget, 1) == [17, 17, 11, 11]


def test_smallest_budget_is_named_and_can_be_reached():
    sites = find_sites(tiny("vit", patch_size=2))
    importance = np.ones((3, 16))
    with pytest.raises(BudgetError, match=r"smallest for this model is macs=0\.\d+") as refusal:
        find_schedule(importance, sites, parse_budget("macs=0.3"), 1)
    share = str(refusal.value).split("macs=")[2].split()[0]
    assert find_schedule(importance, sites, parse_budget(f"macs={share}"), 1) == [17, 9, 5]


@pytest.mark.parametrize("budget", ["params=0.5", "latency=0.5"])
def test_other_budgets(budget):
    sites = find_sites(tiny("vit", patch_size=2))
    with pytest.raises(BudgetError, match="nothing to do with tokens; give a budget in MACs"):
        find_schedule(np.ones((3, 16)), sites, parse_budget(budget), 1)
