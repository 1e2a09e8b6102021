"""Hard-concrete gates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from emulator import to_float64

from emulated.common import DOUBLE, FLOAT, ROUNDOFF, Case, check


def check_hard_concrete(e, rng, sizes, sublayers, hidden, dtype=FLOAT):
    """Bounds as in tests/ops/bounds.py, in roundings of half an eps each."""
    parts = [*sizes, len(sizes) if sublayers else 0, hidden]
    count = sum(parts)
    alpha = (6 * rng.standard_normal(count)).astype(dtype)
    noise = rng.random(count).astype(dtype)
    noise[::7], noise[3::7] = 0, 1
    shares = rng.random(len(sizes))
    gates, slopes, means, sparsity, sparsity_slopes = e.hard_concrete(alpha, noise, parts, shares)

    eps = 2 * ROUNDOFF[np.dtype(dtype)]
    a, u = to_float64(alpha), to_float64(np.clip(noise, dtype.type(1e-6), 1 - dtype.type(1e-6)))
    s = 1 / (1 + np.exp(-1.5 * (np.log(u) - np.log1p(-u) + a)))
    stretched, p = 1.2 * s - 0.1, 1 / (1 + np.exp(-a) * 11 ** (-2 / 3))
    check(gates, np.clip(stretched, 0, 1), np.full(count, 5 * eps))
    inside = (stretched > 0) & (stretched < 1)
    sure = np.minimum(np.abs(stretched), np.abs(stretched - 1)) > 5 * eps
    check(slopes[sure], np.where(inside, 1.8 * s * (1 - s), 0)[sure], 7 * eps)
    by_part = np.split(p, np.cumsum(parts)[:-1])
    mean = np.array([part.mean() if len(part) else 1.0 for part in by_part])
    relative = 4 * eps + count * ROUNDOFF[DOUBLE]
    check(means, mean, relative * mean)
    sublayer = by_part[-2] if sublayers else np.ones(len(sizes))
    kept = shares * mean[:-2] * sublayer
    check(np.array([sparsity]), 1 - mean[-1] * kept.sum(), 3.2 * relative * max(1, kept.sum()))
    weights = [
        np.full(size, mean[-1] * kept_here / mean_here / max(size, 1))
        for size, kept_here, mean_here in zip(sizes, kept, mean, strict=False)
    ]
    weights += [mean[-1] * shares * mean[:-2]] if sublayers else []
    weights += [np.full(hidden, kept.sum() / max(hidden, 1))]
    expected = -np.concatenate(weights) * p * (1 - p)
    factors = 3.2 * relative + 2 * eps + 5 * eps / (p * (1 - p))
    check(sparsity_slopes, expected, np.abs(expected) * factors)


def hard_concrete_cases() -> Iterator[tuple[str, Case]]:
    # One either side of a block's threads; more parts than one launch takes.
    for sizes in ([0], [1], [3, 0, 7], [255, 256, 257], [2] * 100):
        for sublayers, hidden in ((False, 0), (True, 0), (False, 5), (True, 300)):
            for dtype in (FLOAT, DOUBLE) if hidden == 300 else (FLOAT,):
                yield (
                    f"{len(sizes)} sites to {max(sizes)}, {sublayers}, {hidden}, {dtype}",
                    partial(
                        check_hard_concrete,
                        sizes=sizes,
                        sublayers=sublayers,
                        hidden=hidden,
                        dtype=dtype,
                    ),
                )
