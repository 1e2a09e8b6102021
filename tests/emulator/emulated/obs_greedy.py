"""Greedy removal, each step checked to be the cheapest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from emulated.common import DOUBLE, FLOAT, ROUNDOFF, Case


def check_removals(p, w, group, order, curve, done):
    """Every one of the `done` removals was the cheapest of those that go at all; the curve sums
    exact costs.

    A factor of P and what is formed with it are off by about n * eps of their largest entries
    (Higham, theorem 10.3), which costs divide by pivots as small as the smallest eigenvalue.
    """
    units = len(order)
    tolerance = 4 * (len(w) + 2) * ROUNDOFF[curve.dtype] * np.linalg.cond(p)
    assert tolerance < 1e-3, "a bound that says nothing"
    left, total, scale = list(range(units)), 0.0, 0.0
    assert np.array_equal(np.sort(order), left)
    for unit, error in zip(order[:done], curve, strict=False):
        blocks = [slice(u * group, (u + 1) * group) for u in left]
        solved = [np.linalg.solve(p[b, b], w[b]) for b in blocks]
        costs = np.array([(w[b] * x).sum() for b, x in zip(blocks, solved, strict=True)])
        scale = max(scale, *costs)
        at = left.index(unit)
        least = min(cost for cost, u in zip(costs, left, strict=True) if u in order[:done])
        assert costs[at] <= least + tolerance * scale, f"{unit} is not the cheapest"
        total += costs[at]
        assert abs(error - total) <= tolerance * (total + scale)
        b = blocks[at]
        w = w - p[:, b] @ solved[at]
        p = p - p[:, b] @ np.linalg.solve(p[b, b], p[b])
        left.pop(at)
    assert order[done:].tolist() == left  # ascending
    assert np.isinf(curve[done:]).all()


def check_obs(e, rng, sites, outputs=5, dtype=DOUBLE, spoil=None):
    """`sites` are (units, group); `spoil` maps one of them to the unit whose block it ruins."""
    sizes, groups = ([pair[k] for pair in sites] for k in range(2))
    inverses, weights = [], []
    for units, group in sites:
        n = units * group
        x = rng.standard_normal((8 * n, n))
        inverses.append((x.T @ x / max(8 * n, 1)).astype(dtype))
        weights.append(rng.standard_normal((n, outputs)).astype(dtype))
    stored = [p.copy() for p in inverses]
    for site, unit in (spoil or {}).items():
        at = unit * groups[site]
        stored[site][at, at] = (-1, np.nan, np.inf)[site % 3]
    lower_only = [np.where(np.tri(len(p), dtype=bool), p, np.nan).astype(dtype) for p in stored]
    empty = np.empty(0, dtype)
    order, curve, info = e.obs_greedy(
        np.concatenate([p.ravel() for p in lower_only] or [empty]),
        np.concatenate(weights or [np.empty((0, outputs), dtype)]), sizes, groups,
    )  # fmt: skip
    expected = [sizes[s] if spoil and s in spoil else 0 for s in range(len(sites))]
    assert info.tolist() == expected
    for p, w, (units, group), failed in zip(inverses, weights, sites, expected, strict=True):
        own, order = order[:units], order[units:]
        errors, curve = curve[:units], curve[units:]
        done = units - 1 if failed else units
        if units:
            check_removals(p.astype(np.float64), w.astype(np.float64), group, own, errors, done)


def check_obs_ties(e, rng, sites):
    """Nothing but ties: units go in their order, whatever slots they have come to."""
    sizes, groups = ([pair[k] for pair in sites] for k in range(2))
    eyes = [np.eye(units * group).ravel() for units, group in sites]
    weight = np.ones((sum(units * group for units, group in sites), 2))
    order, curve, info = e.obs_greedy(np.concatenate(eyes), weight, sizes, groups)
    assert order.tolist() == [unit for units in sizes for unit in range(units)]
    costs = [2.0 * group * (unit + 1) for units, group in sites for unit in range(units)]
    assert curve.tolist() == costs
    assert not info.any()


def check_obs_early_end(e, rng, sites, usable):
    """All but `usable` units have a weight that is not finite: they are left, in order."""
    sizes, groups = ([pair[k] for pair in sites] for k in range(2))
    eyes, weights, expected = [], [], []
    for units, group in sites:
        good = np.sort(rng.permutation(units)[:usable])
        w = np.full((units, group, 2), np.nan)
        w[good] = 1
        eyes.append(np.eye(units * group).ravel())
        weights.append(w.reshape(-1, 2))
        expected += [*good, *np.setdiff1d(np.arange(units), good)]
    order, curve, info = e.obs_greedy(np.concatenate(eyes), np.concatenate(weights), sizes, groups)
    assert order.tolist() == expected
    assert info.tolist() == [min(usable, units) + 1 for units in sizes]
    for units in sizes:
        own, curve = curve[:units], curve[units:]
        assert np.isfinite(own[:usable]).all()
        assert np.isinf(own[usable:]).all()


def obs_cases() -> Iterator[tuple[str, Case]]:
    for sites in [
        [],
        [(0, 1)],
        [(1, 1)],
        [(2, 1), (0, 3), (3, 1)],
        # One either side of a panel of 32, of a tile of 64, of a block's 256 threads.
        [(31, 1), (32, 1), (33, 1)],
        [(63, 1), (64, 1), (65, 1)],
        [(97, 1), (129, 1)],
        [(257, 1)],
        [(5, 2), (3, 3), (40, 1)],
        [(4, 8), (1, 5), (3, 31)],
        [(2, 64), (2, 65)],
        [(2, 256)],
        [(2, 260)],
        [(1, 1), (2, 2)] * 66,
    ]:
        name = str(sites) if len(sites) < 9 else f"{len(sites)} sites"
        yield name, partial(check_obs, sites=sites)
    for outputs, dtype in itertools.product((0, 1, 33, 70), (FLOAT, DOUBLE)):
        yield (
            f"{outputs} outputs, {dtype}",
            partial(check_obs, sites=[(37, 1), (5, 3)], outputs=outputs, dtype=dtype),
        )
    for group, most in ((1, 70), (2, 12)):
        sites = [(most, group), (most // 2, group), (most // 2 + 5, group)]
        spoil = {0: 3, 1: most // 2 - 1, 2: 0}
        name = f"groups of {group}"
        yield f"{name}, one unit cannot go", partial(check_obs, sites=sites, spoil=spoil)
        yield f"{name}, ties", partial(check_obs_ties, sites=sites)
        for usable in (0, 1, most // 2 - 4, most // 2 - 3, most // 2 - 2):
            early_end = partial(check_obs_early_end, sites=sites, usable=usable)
            yield f"{name}, {usable} units can go", early_end
