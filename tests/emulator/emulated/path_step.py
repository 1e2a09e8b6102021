"""Steps of solution paths."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from emulator import to_float64

from emulated.common import DOUBLE, FLOAT, ROUNDOFF, Case, check, draw, gamma


def check_path_step(e, rng, paths, units, dtype=FLOAT):
    """A state from the middle of a path, where some have entered and some enter now.

    No result takes more than six roundings of terms as large as those summed in its bound.
    """
    shape = (paths, units)
    threshold = (1 + rng.random(shape)).astype(dtype)
    dual = (threshold - 0.6 + rng.random(shape)).astype(dtype)
    rates = [r.astype(dtype) for r in (10 + rng.random(paths), 0.1 * rng.random(paths))]
    rates.append((0.5 + rng.random(paths)).astype(dtype))
    kappa, alpha, nu = (rate.astype(np.float64)[:, None] for rate in rates)
    gate = (kappa * np.maximum(dual - threshold, 0)).astype(dtype)
    mask = (gate + 2 * rng.random(shape) - 0.3).astype(dtype)
    crossing = np.where((dual > threshold) & (rng.random(shape) > 0.1), 3.25, np.inf)
    gradient = draw(rng, shape, dtype)
    m, z, g, d, t = (to_float64(v) for v in (mask, dual, gate, gradient, threshold))
    before = crossing.copy()
    e.path_step((mask, dual, gate, crossing), gradient, threshold, rates, 1000.0)

    slack, pull, size = gamma(6, np.dtype(dtype)), (m - g) / nu, (np.abs(m) + np.abs(g)) / nu
    after = z + alpha * pull
    bound = slack * (np.abs(z) + alpha * size)
    excess = after - t
    check(
        mask,
        m - kappa * alpha * (d + pull),
        slack * (np.abs(m) + kappa * alpha * (np.abs(d) + size)),
    )
    check(dual, after, bound)
    gate_bound = kappa * (bound + slack * (np.abs(after) + t))
    check(gate, np.where(excess > 0, kappa * excess, 0), gate_bound)
    sure = np.abs(excess) > bound
    enters = (excess > 0) & np.isinf(before)
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = np.where(z < t, np.minimum((t - z) / (alpha * pull), 1), 0)
    expected = np.where(enters, 1000 + fraction, before)
    assert np.array_equal(np.isinf(crossing)[sure], np.isinf(expected)[sure])
    both = np.isfinite(crossing) & np.isfinite(expected)
    rounded = slack + 1001 * ROUNDOFF[DOUBLE]
    check(crossing[both], expected[both], np.full(both.sum(), 2 * rounded))


def path_step_cases() -> Iterator[tuple[str, Case]]:
    # One either side of a block's threads.
    for paths, units in [(0, 4), (3, 0), (1, 1), (2, 255), (1, 256), (3, 257), (2, 600)]:
        for dtype in (FLOAT, DOUBLE):
            yield (
                f"({paths}, {units}), {dtype}",
                partial(check_path_step, paths=paths, units=units, dtype=dtype),
            )
