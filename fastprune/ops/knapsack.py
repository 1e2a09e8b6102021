"""Allocation without the native library: the method of csrc/host/allocate.h, in NumPy.

Differences of cost and error are taken from the base, the best choice of whole hull segments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_SLACK = 1e-9  # relative: a choice that exactly fits is not lost to rounding
_SAME = 1e-12  # relative: the rounding of sums
_MOST_CANDIDATES = 2**20  # as in csrc/host/allocate_search.h


@dataclass(frozen=True)
class _Options:
    """What one site offers, by increasing cost and decreasing error."""

    costs: Doubles
    errors: Doubles
    indices: Integers

    def where(self, mask: NDArray[np.bool_]) -> _Options:
        return _Options(self.costs[mask], self.errors[mask], self.indices[mask])


@dataclass(frozen=True)
class _Steps:
    """Hull segments of several sites, steepest first; costs and errors are increments."""

    slopes: Doubles
    costs: Doubles
    errors: Doubles
    sites: Integers
    to: Integers


def allocate(
    errors: Sequence[Doubles], costs: Sequence[Doubles], budgets: Doubles
) -> tuple[Integers, NDArray[np.bool_]]:
    """As ``fastprune.ops.host.allocate``, of checked arguments."""
    sites = [_pareto(e, c) for e, c in zip(errors, costs, strict=True)]
    steps = _hull_steps(sites)
    chosen = np.full((len(budgets), len(sites)), -1, dtype=np.int64)
    exact = np.ones(len(budgets), dtype=bool)
    cheapest = float(sum(site.costs[0] for site in sites))
    for row, budget in enumerate(budgets):
        limit = budget + _SLACK * abs(budget) if np.isfinite(budget) else budget
        if cheapest > limit:
            continue
        spent = np.cumsum(np.append(cheapest, steps.costs))
        taken = int(np.searchsorted(spent, limit, side="right")) - 1
        base = _after(steps, taken, len(sites))
        chosen[row] = [site.indices[k] for site, k in zip(sites, base, strict=True)]
        if taken < len(steps.slopes):
            moved = [
                _Options(s.costs - s.costs[k], s.errors - s.errors[k], s.indices)
                for s, k in zip(sites, base, strict=True)
            ]
            same = _SAME * sum(abs(float(s.errors[k])) for s, k in zip(sites, base, strict=True))
            search = _Search(
                moved, float(steps.slopes[taken]), float(limit - spent[taken]), float(limit), same
            )
            exact[row] = search.improve(chosen[row])
    return chosen, exact


def _pareto(errors: Doubles, costs: Doubles) -> _Options:
    order = np.lexsort((errors, costs))
    best = np.minimum.accumulate(errors[order])
    order = order[np.append(True, best[1:] < best[:-1])]
    return _Options(costs[order], errors[order], order)


def _hull_steps(sites: Sequence[_Options]) -> _Steps:
    parts: list[tuple[float, float, float, int, int]] = []
    for number, site in enumerate(sites):
        c, e = site.costs.tolist(), site.errors.tolist()
        hull: list[int] = []
        slopes = [np.inf]  # into each point of the hull
        for k in range(len(c)):
            while len(hull) > 1:
                if (e[hull[-1]] - e[k]) / (c[k] - c[hull[-1]]) <= slopes[-1] * (1 + _SAME):
                    break
                hull.pop()
                slopes.pop()
            if hull:
                slopes.append((e[hull[-1]] - e[k]) / (c[k] - c[hull[-1]]))
            hull.append(k)
        steepest = np.minimum.accumulate(slopes)
        parts += [
            (float(steepest[i]), c[b] - c[a], e[b] - e[a], number, b)
            for i, (a, b) in enumerate(itertools.pairwise(hull), start=1)
        ]
    parts.sort(key=lambda part: -part[0])
    table = np.array(parts, dtype=np.float64).reshape(-1, 5).T  # numbers up to 2**53 survive
    return _Steps(*table[:3], *table[3:].astype(np.int64))


def _after(steps: _Steps, count: int, sites: int) -> Integers:
    """The option of every site after the first ``count`` steps from the cheapest ones."""
    options = np.zeros(sites, dtype=np.int64)
    np.maximum.at(options, steps.sites[:count], steps.to[:count])
    return options


class _Search:
    """From the base to the best choice; see csrc/host/allocate_search.cpp."""

    def __init__(
        self, sites: list[_Options], slope: float, unspent: float, limit: float, same: float
    ) -> None:
        self.sites, self.slope, self.unspent = sites, slope, unspent
        self.limit, self.same = limit, same
        self.best = 0.0

    def improve(self, chosen: Integers) -> bool:
        """Replace the base in ``chosen`` by the best choice. Whether it is proved optimal."""
        self.base = chosen.copy()
        bound = -self.slope * self.unspent
        self._fill(chosen)
        gap = 1e-6 * (self.best - bound)
        complete = True
        while self.best - bound > self.same:
            complete = self._round(min(gap, self.best - bound), chosen)
            if self.best - bound <= gap:
                break
            gap *= 4.0
        return complete or self.best - bound <= self.same

    def _fill(self, chosen: Integers) -> None:
        """Spend what the base leaves: again and again the change that gains most and fits."""
        now = [(0.0, 0.0)] * len(self.sites)
        left = self.unspent
        for _ in self.sites:
            # The last option that fits is the best one of its site.
            fits = [
                int(np.searchsorted(site.costs, cost + left, side="right")) - 1
                for site, (cost, _) in zip(self.sites, now, strict=True)
            ]
            gains = [
                error - float(site.errors[k]) if k >= 0 else 0.0
                for site, k, (_, error) in zip(self.sites, fits, now, strict=True)
            ]
            s = int(np.argmax(gains))
            if gains[s] <= self.same:
                break
            self.best -= gains[s]
            site, k = self.sites[s], fits[s]
            left -= float(site.costs[k]) - now[s][0]
            now[s] = float(site.costs[k]), float(site.errors[k])
            chosen[s] = site.indices[k]

    def _round(self, gap: float, chosen: Integers) -> bool:
        close = [s.where(s.errors + self.slope * s.costs <= gap) for s in self.sites]
        order = [s for s in range(len(close)) if len(close[s].costs) > 1]
        order.sort(key=lambda s: -len(close[s].costs))
        options = [close[s] for s in order]
        room = self._room(options)
        worst = gap - self.slope * self.unspent
        costs, errors = np.zeros(1), np.zeros(1)
        history: list[tuple[Integers, Integers]] = []
        complete = True
        for level, own in enumerate(options):
            rest = options[level + 1 :]
            steps = _hull_steps(rest)
            rest_costs = np.cumsum(np.append(sum(o.costs[0] for o in rest), steps.costs))
            rest_errors = np.cumsum(np.append(sum(o.errors[0] for o in rest), steps.errors))
            # All partial choices with all options of this site, cheapest first.
            costs = np.add.outer(costs, own.costs).ravel()
            errors = np.add.outer(errors, own.errors).ravel()
            left = room - costs
            bounds = errors + np.interp(left, rest_costs, rest_errors)
            fits = np.flatnonzero(
                (left >= rest_costs[0]) & (bounds <= min(worst, self.best - self.same))
            )
            kept = fits[_undominated(costs[fits], errors[fits], _SAME * self.limit)]
            if not len(kept):
                break
            parents, taken = np.divmod(kept, len(own.costs))
            costs, errors, bounds, left = costs[kept], errors[kept], bounds[kept], left[kept]
            history.append((parents, taken))
            # Each completed by the whole segments that still fit.
            count = np.searchsorted(rest_costs, left, side="right") - 1
            full = errors + rest_errors[count]
            if full.min() < self.best - self.same:
                best = int(full.argmin())
                self.best = float(full[best])
                picks = _after(steps, int(count[best]), len(rest)).tolist()
                for parents, taken in reversed(history):
                    picks.insert(0, int(taken[best]))
                    best = int(parents[best])
                chosen[:] = self.base
                for s, o, k in zip(order, options, picks, strict=True):
                    chosen[s] = o.indices[k]
            good = np.flatnonzero(bounds <= min(worst, self.best - self.same))
            cap = max(1, _MOST_CANDIDATES // max(8, len(rest[0].costs) if rest else 1))
            if len(good) > cap:
                complete = False
                few = -(-len(good) // cap)
                padded = np.append(bounds[good], np.full(-len(good) % few, np.inf))
                best_of = padded.reshape(-1, few).argmin(1)
                good = good[np.arange(len(best_of)) * few + best_of]
            costs, errors = costs[good], errors[good]
            history[-1] = (history[-1][0][good], history[-1][1][good])
        return complete

    def _room(self, options: list[_Options]) -> float:
        """What can be spent: if all costs are multiples of a common unit, whole units."""
        unit = 0.0
        for a in np.abs(np.concatenate([np.zeros(1), *(o.costs for o in options)])).tolist():
            while a > 1e-11 * self.limit:  # else rounding
                unit, a = a, abs(math.remainder(unit, a))
        if unit <= 1e-8 * self.limit:
            return self.unspent
        units = math.floor(self.unspent / unit + 1e-8)
        return min(self.unspent, units * unit + _SAME * self.limit)


def _undominated(costs: Doubles, errors: Doubles, same_cost: float) -> Integers:
    """Which partial choices no cheaper one, or one that costs the same, beats."""
    # Costs that count as equal are ranked by error, so that the best of them comes first.
    order = np.argsort(costs, kind="stable")
    group = np.cumsum(np.append(0, np.diff(costs[order]) > same_cost)) if len(order) else order
    order = order[np.lexsort((errors[order], group))]
    best = np.minimum.accumulate(errors[order])
    return order[np.append(True, best[1:] < best[:-1])] if len(order) else order
