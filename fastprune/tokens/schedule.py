"""How many tokens each block gets under a budget of MACs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fastprune.budget import Budget, round_up
from fastprune.budget.costs import macs_per_unit
from fastprune.errors import BudgetError
from fastprune.merging.reduction import fewest, schedule_of
from fastprune.structure import Site, find_sites


def macs_at(sites: Sequence[Site], tokens: Sequence[float]) -> float:
    """Multiply-accumulates of all units for one sample, if ``tokens[i]`` tokens enter block ``i``.

    Merging is not counted: comparing half of the tokens with the other half is about a hundredth
    of what a block of DeiT-S does.
    """
    return sum(site.units * macs_per_unit(site, tokens[site.layer]) for site in sites)


def model_macs(model: nn.Module, seq_len: float) -> float:
    """:func:`macs_at` for a model as it is: of ``seq_len`` tokens, unless its schedule has less."""
    sites, schedule = find_sites(model), schedule_of(model)
    layers = 1 + max((site.layer for site in sites), default=0)
    return macs_at(sites, [seq_len] * layers if schedule is None else schedule)


def check_share(
    sites: Sequence[Site], budget: Budget, layers: int, counts: tuple[int, int]
) -> None:
    """Refuse a budget that fewer tokens cannot meet.

    Args:
        sites: of the model.
        budget: of MACs.
        layers: blocks of the model.
        counts: tokens, and how many of them are special.

    Raises:
        BudgetError: naming the smallest budget, or another kind than MACs.
    """
    if budget.kind != "macs":
        raise BudgetError(
            f"budget {budget} has nothing to do with tokens; give a budget in MACs, such as "
            "macs=0.7"
        )
    tokens, special = counts
    dense = macs_at(sites, [tokens] * layers)
    least = macs_at(sites, _within_reach(np.zeros(layers, dtype=int), tokens, special))
    if budget.limit(dense) < least:
        raise BudgetError(
            f"budget {budget} cannot be reached by fewer tokens alone: the smallest for this model "
            f"is macs={round_up(least / dense):g} ({least:.4g} of {dense:.4g} macs); save less by "
            "tokens, and more by heads and filters"
        )


def find_schedule(
    importance: NDArray[np.float64], sites: Sequence[Site], budget: Budget, special: int
) -> list[int]:
    """Take tokens away, the least important ones first, until a budget is met.

    A token that is taken away at a block is missing in all that follow, so counts never rise.
    The first block gets all tokens: nothing is known yet by which they could be merged. At most
    half of the tokens go between two blocks; where more should, later ones make up for it.

    Args:
        importance: what is lost with each token, [blocks, patches]: missing from a block on. Ties
            are broken in favour of the later block.
        sites: of the model.
        budget: of MACs.
        special: tokens that always stay.

    Returns:
        how many tokens enter each block, special ones included.

    Raises:
        BudgetError: a budget of another kind, or one that cannot be reached.
    """
    layers, patches = importance.shape
    tokens = patches + special
    check_share(sites, budget, layers, (tokens, special))
    limit = budget.limit(macs_at(sites, [tokens] * layers))
    schedule = [tokens] * layers
    counts = np.full(layers, patches)
    ends = np.full(patches, layers)  # the first block that a token does not enter
    # Later blocks first, so that a stable sort breaks ties in their favour.
    order = np.argsort(importance[:0:-1], axis=None, kind="stable")
    for row, position in zip(*np.unravel_index(order, (layers - 1, patches)), strict=True):
        layer = layers - 1 - int(row)
        if ends[position] <= layer:
            continue
        counts[layer : ends[position]] -= 1
        ends[position] = layer
        schedule = _within_reach(counts, tokens, special)
        if macs_at(sites, schedule) <= limit:
            break
    return schedule


def _within_reach(counts: NDArray[np.int64], tokens: int, special: int) -> list[int]:
    """The schedule nearest to ``counts`` [blocks] that merging can follow."""
    schedule = [tokens - special]
    for count in counts[1:].tolist():
        schedule.append(max(count, fewest(schedule[-1])))
    return [count + special for count in schedule]
