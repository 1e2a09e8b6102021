"""Layer norms over kept dimensions, and their derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from emulator import to_float64

from emulated.common import DOUBLE, FLOAT, ROUNDOFF, Case, check, gamma


def draw_norm(rng, rows, width, kept, dtype, bias):
    """Rows, weight, bias and gate, with NaN in all but the kept dimensions."""
    closed = (
        rng.permutation(width)[kept:]
        if kept is not None
        else np.flatnonzero(rng.random(width) < 1 / 3)
    )
    x = rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-2, 3, (rows, 1)) + 1
    weight, shift, gate = *rng.standard_normal((2, width)), rng.random(width) + 0.1
    x[:, closed] = weight[closed] = shift[closed] = np.nan
    gate[closed] = 0
    given = [values.astype(dtype) for values in (x, weight, shift, gate)]
    return given[0], given[1], given[2] if bias else None, given[3]


def kept_parts(x, weight, bias, gate):
    """The same in float64, the kept dimensions alone, with zeros for a bias that is not there."""
    kept = gate != 0
    bias = np.zeros_like(weight) if bias is None else bias
    return kept, *(to_float64(values)[..., kept] for values in (x, weight, bias, gate))


def check_masked_norm(
    e, rng, rows, width, kept=None, dtype=FLOAT, centered=True, bias=True, eps=1e-5
):
    """Bounds as in tests/ops/bounds.py, in roundings of half an eps each."""
    given = draw_norm(rng, rows, width, kept, dtype, bias)
    y, mean, rstd = e.masked_norm(*given, eps, centered)
    open_, x, weight, shift, gate = kept_parts(*given)
    assert not y[:, ~open_].any()
    if not open_.any():
        assert not np.concatenate([mean, rstd]).any()
        return
    unit, sums = 2 * ROUNDOFF[np.dtype(dtype)], gamma(2 * (width + 2), DOUBLE)
    m = x.mean(1) if centered else np.zeros(rows)
    off = unit * np.abs(m) + sums * np.abs(x).mean(1) * centered
    check(mean, m, off)
    d = x - m[:, None]
    size, off = np.abs(d), off[:, None] + unit * np.abs(d)
    variance = (d * d).mean(1)
    r = 1 / np.sqrt(variance + eps)
    slack = ((2 * size + off) * off).mean(1) + sums * variance
    r_off = r * (unit + slack * r * r)
    check(rstd, r, r_off)
    h_off = off * r[:, None] + size * (r_off + unit * r)[:, None]
    w = np.abs(weight)
    bound = gate * (2 * w * h_off + 4 * unit * (w * size * r[:, None] + np.abs(shift)))
    check(y[:, open_], gate * (weight * d * r[:, None] + shift), bound)


def check_masked_norm_backward(
    e, rng, rows, width, kept=None, dtype=FLOAT, centered=True, bias=True
):
    """Likewise; of a part's 128 rows, a slice adds up 16, and then come 8 slices."""
    given = draw_norm(rng, rows, width, kept, dtype, bias)
    dy = rng.standard_normal((rows, width)).astype(dtype)
    dy[:, given[-1] == 0] = np.nan
    mean, rstd = (rng.random((2, rows)) + 0.5).astype(dtype)
    dx, *gradients = e.masked_norm_backward(dy, *given, mean, rstd, centered)
    open_, x, weight, shift, gate = kept_parts(*given)
    for derivative in (dx, *gradients):
        assert not derivative[..., ~open_].any()
    if not open_.any():
        return
    unit, sums = 2 * ROUNDOFF[np.dtype(dtype)], gamma(2 * (width + 2), DOUBLE)
    d, r = to_float64(dy)[:, open_], to_float64(rstd)[:, None]
    h = (x - to_float64(mean)[:, None]) * r
    g = d * gate * weight
    common, along = g.mean(1, keepdims=True) * centered, (g * h).mean(1, keepdims=True)
    whole, share = np.abs(g).mean(1, keepdims=True), np.abs(g * h).mean(1, keepdims=True)
    size = r * (np.abs(g) + whole * centered + np.abs(h) * share)
    check(dx[:, open_], r * (g - common - h * along), (12 * unit + 2 * sums) * size)
    by_h, by_one = (d * h).sum(0), d.sum(0)
    size_h, size_one = np.abs(d * h).sum(0), np.abs(d).sum(0)
    slack = gamma(min(rows, 24) + 7, np.dtype(dtype)) + gamma(rows // 128 + 9, DOUBLE)
    expected = (gate * by_h, gate * by_one * bias, weight * by_h + shift * by_one)
    sizes = (gate * size_h, gate * size_one, np.abs(weight) * size_h + np.abs(shift) * size_one)
    for found, exact, magnitude in zip(gradients, expected, sizes, strict=True):
        check(found[open_], exact, 2 * slack * magnitude)


def norm_cases(check: Callable[..., None], shapes: list[tuple[int, int]]):
    for rows, width in shapes:
        yield f"({rows}, {width})", partial(check, rows=rows, width=width)
    for dtype, centered, bias in itertools.product((FLOAT, DOUBLE), (True, False), (True, False)):
        options = {"dtype": dtype, "centered": centered, "bias": bias}
        yield (
            f"{dtype}, {'' if centered else 'not '}centred, {'with' if bias else 'no'} bias",
            partial(check, rows=19, width=70, **options),
        )
    for kept in (0, 1, 40):
        yield f"{kept} of 40", partial(check, rows=9, width=40, kept=kept)


def masked_norm_cases() -> Iterator[tuple[str, Case]]:
    # One either side of a block's rows and of a warp's lanes.
    shapes = [(0, 5), (3, 0), (1, 1), (7, 31), (8, 32), (9, 33), (17, 300)]
    yield from norm_cases(check_masked_norm, shapes)


def masked_norm_backward_cases() -> Iterator[tuple[str, Case]]:
    # And of the rows of a part, and of parts that a block's slices add up.
    shapes = [(0, 5), (3, 0), (1, 1), (7, 31), (8, 32), (9, 33), (127, 65), (129, 3), (1200, 2)]
    yield from norm_cases(check_masked_norm_backward, shapes)
