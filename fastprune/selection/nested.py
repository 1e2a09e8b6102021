"""Choosing along one order of all units: what a small budget keeps, a larger one keeps as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune.budget import Budget, Prices
from fastprune.selection.search import check_reachable
from fastprune.selection.widths import WidthGroup, width_groups
from fastprune.structure import Site, SiteKind


class Nested:
    """Keeps the units that come first in an order, as many as a budget pays (a :class:`Chooser`).

    Where the next unit is one too many the choice ends, although a cheaper one further down might
    still fit: skipping would cost the masks of different budgets their nesting.
    """

    def __init__(self, order: Tensor) -> None:
        """Args: order: int64 [units of all sites], the ones to keep longest first."""
        self._order = order.cpu().numpy()

    def masks(
        self,
        prices: Prices,
        budgets: Sequence[Budget],
        *,
        align: int = 1,
        uniform: Sequence[SiteKind] | None = None,
    ) -> Tensor:
        """See :meth:`Chooser.masks`."""
        groups = width_groups(prices.sites, align, uniform)
        costs = [group.total(prices.curves) for group in groups]
        check_reachable(prices, budgets, prices.fixed + _smallest(costs))
        owner = self._owner(prices.sites)
        options = [_options(group, owner) for group in groups]
        spent = np.full(len(owner) + 1, prices.fixed)
        for cost, option in zip(costs, options, strict=True):
            spent += cost[option]
        chosen = [np.flatnonzero(spent <= budget.limit(prices.dense))[-1] for budget in budgets]
        kept = np.zeros((len(budgets), len(prices.sites)), dtype=np.int64)
        for group, option in zip(groups, options, strict=True):
            kept[:, group.members] = group.counts[option[chosen], None]
        return torch.stack([self._mask(owner, counts) for counts in kept])

    def _owner(self, sites: Sequence[Site]) -> NDArray[np.int64]:
        """The index of the site that each unit of the order belongs to."""
        return np.repeat(np.arange(len(sites)), [site.units for site in sites])[self._order]

    def _mask(self, owner: NDArray[np.int64], kept: NDArray[np.int64]) -> Tensor:
        """1 for the first ``kept[i]`` units of every site ``i``: float32 [units of all sites]."""
        mask = torch.zeros(len(owner))
        for index, count in enumerate(kept):
            mask[self._order[owner == index][:count]] = 1.0
        return mask


def _options(group: WidthGroup, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every number of first units, the most of ``group.counts`` that they fill.

    Sites that have to keep the same number share what has entered any of them.
    """
    entered = np.append(0, np.isin(owner, group.members).cumsum()) // len(group.members)
    return np.maximum(np.searchsorted(group.counts, entered, side="right") - 1, 0)


def _smallest(costs: Sequence[NDArray[np.float64]]) -> float:
    """What the first unit can cost, whichever it is: known before the order is."""
    least = sum(float(cost.min()) for cost in costs)
    return least or max(float(cost[cost > 0].min()) for cost in costs if (cost > 0).any())
