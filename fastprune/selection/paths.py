"""Choosing along removal paths: how far to follow the path of each site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune.budget import Budget, Prices
from fastprune.errors import BudgetError
from fastprune.ops.host import allocate
from fastprune.selection.search import check_reachable
from fastprune.structure import Site, SiteKind


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
        groups = _groups(prices.sites, align, uniform)
        errors = [_sum([self._paths[i].errors for i in g.members], g.counts) for g in groups]
        costs = [_sum([prices.curves[i] for i in g.members], g.counts) for g in groups]
        check_reachable(prices, budgets, prices.fixed + _smallest(costs))
        limits = np.array([budget.limit(prices.dense) for budget in budgets]) - prices.fixed
        chosen, _ = allocate(errors, costs, limits)
        return torch.stack([self._mask(groups, row) for row in chosen])

    def _mask(self, groups: Sequence[_Group], choice: NDArray[np.int64]) -> Tensor:
        kept = np.zeros(len(self._paths), dtype=np.int64)
        for group, option in zip(groups, choice, strict=True):
            kept[group.members] = group.counts[option]
        return torch.cat([path.mask(int(k)) for path, k in zip(self._paths, kept, strict=True)])


def _sum(curves: Sequence[NDArray[np.float64]], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What keeping ``counts[k]`` units of every site costs in total: float64 like ``counts``."""
    total = np.zeros(len(counts))
    for curve in curves:
        total += curve[counts]
    return total


def _smallest(costs: Sequence[NDArray[np.float64]]) -> float:
    """What the least choice costs that keeps something."""
    least = sum(float(cost.min()) for cost in costs)
    steps = [float(cost[cost > 0].min()) for cost in costs if (cost > 0).any()]
    return least or min(steps)


@dataclass(frozen=True)
class _Group:
    """Sites that keep the same number of units, and the numbers to choose from."""

    members: list[int]
    counts: NDArray[np.int64]


def _groups(sites: Sequence[Site], align: int, uniform: Sequence[SiteKind] | None) -> list[_Group]:
    if uniform is None:
        return [_Group([i], _counts(site, align)) for i, site in enumerate(sites)]
    groups = []
    for kind in dict.fromkeys(site.kind for site in sites):
        members = [i for i, site in enumerate(sites) if site.kind == kind]
        widths = {sites[i].units for i in members}
        if len(widths) != 1:
            raise BudgetError("uniform pruning needs a model whose layers all have the same widths")
        (width,) = widths
        # A stock config can describe neither an empty sublayer nor a last, odd step.
        step = min(align, width) if kind == "ffn" else 1
        counts = np.arange(step, width + 1, step) if kind in uniform else np.array([width])
        groups.append(_Group(members, counts))
    return groups


def _counts(site: Site, align: int) -> NDArray[np.int64]:
    """Numbers of units a site may keep: multiples of ``align`` in an FFN, and all."""
    step = align if site.kind == "ffn" else 1
    return np.union1d(np.arange(0, site.units + 1, step), [site.units])
