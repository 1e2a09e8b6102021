"""Choosing along removal paths: how far to follow the path of each site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune.budget import Budget, Prices
from fastprune.ops.host import allocate
from fastprune.selection.search import check_reachable
from fastprune.selection.widths import WidthGroup, width_groups
from fastprune.structure import SiteKind


@dataclass(frozen=True)
class RemovalPath:
    """In which order the units of a site go, and what that costs.

    Attributes:
        order: int64 [units], the first to go first.
        errors: float64 [units + 1]; ``errors[k]`` is what keeping ``k`` units costs. Of all paths
            in the same unit.
    """

    order: Tensor
    errors: NDArray[np.float64]

    def mask(self, kept: int) -> Tensor:
        """float32 [units], 1 = kept: those that go last."""
        mask = torch.zeros(len(self.order))
        mask[self.order[len(self.order) - kept :]] = 1.0
        return mask


class Paths:
    """Keeps the units that go last (a :class:`Chooser`).

    Paths are nested, so one set of them serves every budget: budgets differ only in where each
    site stops. Where it stops is a multiple-choice knapsack over the sites, solved exactly, or
    as well as :func:`fastprune.ops.host.allocate` can.
    """

    def __init__(self, paths: Sequence[RemovalPath]) -> None:
        """Args: paths: one per site, in order."""
        self._paths = list(paths)

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
        errors = [group.total([path.errors for path in self._paths]) for group in groups]
        costs = [group.total(prices.curves) for group in groups]
        check_reachable(prices, budgets, prices.fixed + _smallest(costs))
        limits = np.array([budget.limit(prices.dense) for budget in budgets]) - prices.fixed
        chosen, _ = allocate(errors, costs, limits)
        return torch.stack([self._mask(groups, row) for row in chosen])

    def _mask(self, groups: Sequence[WidthGroup], choice: NDArray[np.int64]) -> Tensor:
        kept = np.zeros(len(self._paths), dtype=np.int64)
        for group, option in zip(groups, choice, strict=True):
            kept[group.members] = group.counts[option]
        return torch.cat([path.mask(int(k)) for path, k in zip(self._paths, kept, strict=True)])


def _smallest(costs: Sequence[NDArray[np.float64]]) -> float:
    """What the least choice costs that keeps something."""
    least = sum(float(cost.min()) for cost in costs)
    steps = [float(cost[cost > 0].min()) for cost in costs if (cost > 0).any()]
    return least or min(steps)
