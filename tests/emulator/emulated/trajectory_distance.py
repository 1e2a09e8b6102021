"""Distances between trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from emulator import bfloat16, to_bfloat16, to_float64

from emulated.common import DOUBLE, FLOAT, INPUTS, Case, check, embed, gamma


def unit_rows(values: np.ndarray) -> np.ndarray:
    exact = to_float64(values)
    length = np.sqrt((exact**2).sum(-1, keepdims=True))
    return np.divide(exact, length, out=np.zeros_like(exact), where=length != 0)


def check_trajectory(
    e, rng, variants, rows, width, dtype=FLOAT, change=1.0, zeros=False, padding=0, offset=0
):
    """`change`: how much of the teacher's size the features differ from it by."""
    teacher = rng.standard_normal((rows, width))
    features = teacher + change * rng.standard_normal((variants, rows, width))
    if zeros:
        features[:, ::3] = teacher[1::2] = 0
    if dtype == bfloat16:
        features, teacher = to_bfloat16(features), to_bfloat16(teacher)
    else:
        features, teacher = features.astype(dtype), teacher.astype(dtype)
    start = rng.random(variants)
    actual = e.trajectory_distance(
        embed(features, padding, offset), embed(teacher, 2 * padding, offset), start.copy()
    )
    t = unit_rows(teacher)
    for got, before, s in zip(actual, start, unit_rows(features), strict=True):
        u, d = (s + t) / 2, s - t
        # Lengths are sums in f64, as in the reference.
        slack = 10 * gamma(width + 4, DOUBLE) * (abs(s) + abs(t))
        noise = abs(u) @ slack.T + slack @ (abs(d) + slack).T
        noise = noise + noise.T
        size = abs(u) @ abs(d).T + abs(d) @ abs(u).T
        entries = u @ d.T + d @ u.T
        # D and U are rounded once, then products of 2 * width terms.
        error = 1.01 * gamma(2 * width + 2) * (size + noise) + noise
        bound = ((2 * abs(entries) + error) * error).sum()
        exact = (entries**2).sum()
        bound += 2 * gamma(rows * rows + 2, DOUBLE) * (exact + before)
        check(got, before + exact, bound)


def check_equal_trajectories(e, rng):
    teacher = rng.standard_normal((130, 37)).astype(np.float32)
    teacher[5] = 0
    start = rng.random(2)
    actual = e.trajectory_distance(np.stack([teacher, teacher]), teacher, start.copy())
    assert np.array_equal(actual, start)


def check_spoilt_trajectories(e, rng):
    """What is not finite makes its variant NaN, and leaves the others as they are."""
    features = rng.standard_normal((5, 131, 9)).astype(np.float32)
    features[:, 0] = 0
    teacher = rng.standard_normal((131, 9)).astype(np.float32)
    clean = e.trajectory_distance(features, teacher, np.zeros(5))
    features[0, 130, 8], features[2, 3, 0], features[3, 0, 4] = np.inf, np.nan, -np.inf
    actual = e.trajectory_distance(features, teacher, np.zeros(5))
    assert np.isnan(actual[[0, 2, 3]]).all()
    assert np.array_equal(actual[[1, 4]], clean[[1, 4]])


def trajectory_cases() -> Iterator[tuple[str, Case]]:
    for shape in [
        (0, 3, 4), (2, 0, 4), (2, 4, 0), (1, 1, 1), (3, 2, 5),
        # One either side of what a block turns, of a slab, of a tile, of a part.
        (2, 31, 7), (2, 32, 8), (2, 33, 9), (1, 35, 31), (1, 34, 32), (1, 36, 33),
        (1, 127, 5), (1, 128, 16), (2, 129, 17), (1, 260, 3), (1, 3, 255), (1, 3, 256), (1, 3, 257),
        (1, 5, 513),
    ]:  # fmt: skip
        sizes = dict(zip(("variants", "rows", "width"), shape, strict=True))
        yield f"{shape}", partial(check_trajectory, **sizes)
    for name, dtype in INPUTS.items():
        options = {"variants": 3, "rows": 37, "width": 50, "dtype": dtype}
        yield f"{name}", partial(check_trajectory, **options)
        yield f"{name} strided", partial(check_trajectory, **options, padding=3, offset=1)
        yield f"{name} zeros", partial(check_trajectory, **options, zeros=True)
        change = {"f32": 1e-7, "bf16": 1e-2, "f16": 1e-3}[name]
        yield f"{name} near", partial(check_trajectory, **options, change=change)
    yield "equal", check_equal_trajectories
    yield "not finite", check_spoilt_trajectories
    yield "two passes", partial(check_trajectory, variants=265, rows=1, width=2, zeros=True)
