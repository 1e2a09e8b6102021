"""The search for a latency: which sublayers go, and which units of the others stay."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastprune.compat.retraining_free.efficiency.latency import PiecewiseLinearLatency
from fastprune.compat.retraining_free.prune.split import Array, Split, best_split

_SLACK = 1e-9  # relative: a unit that fits exactly is not lost to rounding
Units = NDArray[np.int64]
Kept = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Choice:
    """What is left to choose from once some sublayers are gone.

    Attributes:
        layers: how many are left.
        base: units that stay, since as few cost as much as one.
        base_importance: theirs.
        units: the other units, by falling importance.
        importance: theirs.
        alive: how many of ``units`` lie in layers that are left; the others come last.
    """

    layers: int
    base: Units
    base_importance: float
    units: Units
    importance: Array
    alive: int

    def without_lost(self) -> Choice:
        """Nothing but the layers that are left."""
        units, importance = self.units[: self.alive], self.importance[: self.alive]
        return Choice(self.layers, self.base, self.base_importance, units, importance, self.alive)


class Sublayers:
    """All sublayers of a kind, ranked within and among each other."""

    def __init__(self, importance: Array, fit: PiecewiseLinearLatency) -> None:
        """Rank units of ``importance [layers, units]``, whose latency follows ``fit``."""
        self.fit = fit
        self.size = importance.size
        layers, units = importance.shape
        order = np.argsort(-importance, axis=1, kind="stable")
        ranked = np.take_along_axis(importance, order, axis=1)
        order = order + units * np.arange(layers)[:, None]
        self._base, self._others = np.split(order, [fit.threshold], axis=1)
        self._base_importance, self._importance = np.split(ranked, [fit.threshold], axis=1)
        self._leave_first = np.argsort(self._base_importance.sum(1), kind="stable")

    def choices(self) -> list[Choice]:
        """With no sublayer dropped, with the least important one dropped, and so on."""
        return [self._choice(drops) for drops in range(len(self._leave_first))]

    def _choice(self, drops: int) -> Choice:
        gone, left = np.split(self._leave_first, [drops])
        importance = self._importance.copy()
        importance[gone] = 0.0
        alive = np.ones(importance.shape, dtype=bool)
        alive[gone] = False
        # Units of no importance tie with those that are gone, which must come last.
        order = np.lexsort((~alive.ravel(), -importance.ravel()))
        return Choice(
            layers=len(left),
            base=self._base[left].ravel(),
            base_importance=float(self._base_importance[left].sum()),
            units=self._others.ravel()[order],
            importance=importance.ravel()[order],
            alive=int(alive.sum()),
        )


def search_sublayers(attention: Sublayers, ffn: Sublayers, limit: float) -> Kept | None:
    """The units with the most importance within ``limit``, those that cost nothing included.

    Returns:
        uint8 masks of all heads and of all filters; None where the limit is below the cost of one
        sublayer of each kind.
    """
    best, worth = None, -np.inf
    limit *= 1 + _SLACK
    for heads, filters in product(attention.choices(), ffn.choices()):
        heads, filters = heads.without_lost(), filters.without_lost()
        left = limit - heads.layers * attention.fit.c - filters.layers * ffn.fit.c
        counts = np.arange(len(heads.units) + 1)
        affordable = _affordable(left - attention.fit.slope * counts, ffn.fit.slope, filters)
        split = best_split(heads.importance, filters.importance, affordable)
        if split is None:
            continue
        total = split.importance + heads.base_importance + filters.base_importance
        if total > worth:
            best, worth = _chosen(attention, ffn, heads, filters, split), total
    return best


def released_search(attention: Sublayers, ffn: Sublayers, limit: float) -> Kept | None:
    """The search as released, defects included.

    Every step leaves less of the budget to those after it; importance that costs nothing beyond a
    sublayer's constant is not counted; units of dropped layers return when there is money for more
    units than are left; and at least one head beyond the constants must be bought.
    """
    best, worth = None, 0.0
    for heads, filters in product(attention.choices(), ffn.choices()):
        limit -= heads.layers * attention.fit.c + filters.layers * ffn.fit.c
        if limit < 0:
            continue
        counts = np.arange(heads.alive + 1)
        affordable = _truncated(limit - attention.fit.slope * counts, ffn.fit.slope, filters)
        affordable[0] = -1
        split = best_split(heads.importance[: heads.alive], filters.importance, affordable)
        if split is not None and split.importance > worth:
            best, worth = _chosen(attention, ffn, heads, filters, split), split.importance
    return best


def _affordable(left: NDArray[Any], price: float, filters: Choice) -> Units:
    """How many filters ``left`` pays for; -1 where it is negative."""
    count = len(filters.units)
    bought = np.full(len(left), count, dtype=np.int64)
    if price > 0:
        bought = np.floor(left / price).clip(-1, count).astype(np.int64)
    bought[left < 0] = -1
    return bought


def _truncated(left: NDArray[Any], price: float, filters: Choice) -> Units:
    """The same, except that an overdraft of less than one filter is none."""
    bought = _affordable(left, price, filters)
    if price > 0:
        bought[(left < 0) & (left > -price)] = 0
    return bought


def _chosen(
    attention: Sublayers, ffn: Sublayers, heads: Choice, filters: Choice, split: Split
) -> Kept:
    def mask(kind: Sublayers, choice: Choice, count: int) -> NDArray[np.uint8]:
        kept = np.zeros(kind.size, dtype=np.uint8)
        kept[choice.base] = 1
        kept[choice.units[:count]] = 1
        return kept

    return mask(attention, heads, split.heads), mask(ffn, filters, split.filters)
