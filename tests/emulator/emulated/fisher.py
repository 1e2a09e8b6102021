"""Gram matrices and Fisher blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
from emulator import bfloat16, to_float64

from emulated.common import (
    DOUBLE,
    FLOAT,
    HALF,
    INPUTS,
    Case,
    check,
    draw,
    embed,
    filled_with_nan,
    gamma,
    symmetric,
)


def check_syrk(actual: np.ndarray, start: np.ndarray, x: np.ndarray) -> None:
    """actual = start + x^T x, f32 sums of at most 256 rows, those summed in actual's type."""
    parts = -(-len(x) // 256) + 1
    size = np.abs(x).T @ np.abs(x)
    bound = gamma(min(len(x), 256) + 1) * size + gamma(parts, actual.dtype) * (np.abs(start) + size)
    check(actual, start + x.T @ x, 1.01 * bound)  # 1.01: second-order terms
    assert symmetric(actual)


def symmetric_start(rng: np.random.Generator, n: int, dtype: np.dtype) -> np.ndarray:
    start = rng.standard_normal((n, n)).astype(dtype)
    return np.ascontiguousarray(np.tril(start) + np.tril(start, -1).T)


def check_gram(
    e,
    rng,
    rows,
    width,
    dtype=FLOAT,
    out_dtype=DOUBLE,
    kept=None,
    invalid=False,
    share=0.5,
    empty=(),
    padding=0,
    offset=0,
):
    """`invalid` rows are all but a `share` of them, and those of every part in `empty`."""
    x = draw(rng, (rows, width), dtype)
    valid = np.ones(rows, np.uint8)
    if invalid:
        valid = (rng.random(rows) < share).astype(np.uint8)
        for part in empty:
            valid[256 * part : 256 * (part + 1)] = 0
        x[valid == 0] = filled_with_nan(1, dtype)[0]
    columns = None
    if kept is not None:
        columns = rng.permutation(width)[:kept].astype(np.int64)
        dropped = np.setdiff1d(np.arange(width), columns)
        x[:, dropped] = filled_with_nan(1, dtype)[0]
    start = symmetric_start(rng, width if kept is None else kept, out_dtype)
    actual = e.gram(
        embed(x, padding, offset), start.copy(), columns=columns, valid=valid if invalid else None
    )
    used = to_float64(x)[valid != 0]
    check_syrk(actual, start, used if columns is None else used[:, columns])


def gram_cases() -> Iterator[tuple[str, Case]]:
    for rows, width in [
        (0, 3),
        (1, 1),
        (5, 0),
        (15, 63),
        (16, 64),
        (17, 65),
        (255, 2),
        (256, 3),
        (257, 5),
        (520, 7),
        (31, 131),
        (7, 127),
        (8, 128),
        (9, 129),
        (33, 256),
        (511, 132),
        (512, 128),
        (513, 4),
        (769, 129),
    ]:
        yield f"({rows}, {width})", partial(check_gram, rows=rows, width=width)
    for name, dtype in (("bf16", bfloat16), ("f16", HALF)):
        for rows, width in [(15, 16), (31, 127), (32, 128), (33, 136), (257, 129), (513, 8)]:
            yield (
                f"{name} ({rows}, {width})",
                partial(check_gram, rows=rows, width=width, dtype=dtype),
            )
    for (name, dtype), out in itertools.product(INPUTS.items(), (FLOAT, DOUBLE)):
        options = {"rows": 37, "width": 70, "dtype": dtype, "out_dtype": out}
        options |= {"padding": 5, "offset": 1}
        yield f"{name} to {out}", partial(check_gram, **options)
        yield (
            f"{name} to {out}, kept and valid",
            partial(check_gram, **options, kept=66, invalid=True),
        )
        # Every access a vector; parts with no row at all, in one block's work and in several.
        options = {"width": 72, "dtype": dtype, "out_dtype": out, "padding": 8, "invalid": True}
        yield f"{name} to {out}, aligned", partial(check_gram, rows=300, **options)
        for rows, empty in [(512, (0,)), (512, (1,)), (512, (0, 1)), (1000, (1, 3))]:
            yield (
                f"{name} to {out}, {rows} rows, none in {empty}",
                partial(check_gram, rows=rows, empty=empty, **options),
            )
    # So many parts that each block gets two, but for the last.
    for out in (FLOAT, DOUBLE):
        yield (
            f"few of many rows to {out}",
            partial(
                check_gram, rows=33000, width=4, kept=3, out_dtype=out, invalid=True, share=0.01
            ),
        )
    yield "none kept", partial(check_gram, rows=4, width=9, kept=0)


def check_fisher(e, rng, rows, sizes, dtype=FLOAT, padding=0, offset=0):
    grads = draw(rng, (rows, sum(sizes)), dtype)
    starts = [symmetric_start(rng, n, FLOAT) for n in sizes]
    out = np.concatenate([s.ravel() for s in starts] or [np.empty(0, np.float32)])
    e.fisher_outer(embed(grads, padding, offset), sizes, out)
    exact = to_float64(grads)
    for start in starts:
        n = len(start)
        block, out = out[: n * n].reshape(n, n), out[n * n :]
        site, exact = exact[:, :n], exact[:, n:]
        check_syrk(block, start, site)


def fisher_cases() -> Iterator[tuple[str, Case]]:
    for rows, sizes in [
        (3, []),
        (0, [4]),
        (5, [0, 1, 0, 2]),
        (64, [12, 130, 12, 65]),
        (300, [63, 64]),
        (7, [1, 2, 3] * 67),
        (9, [128, 4, 256]),
        (8, [3, 128]),
        (512, [127, 129]),
        (520, [4, 0, 132, 1]),
    ]:
        name = str(sizes) if len(sizes) < 9 else f"{len(sizes)} sites"
        yield f"{rows} rows, {name}", partial(check_fisher, rows=rows, sizes=sizes)
    for name, dtype in INPUTS.items():
        yield (
            f"{name} strided",
            partial(check_fisher, rows=19, sizes=[5, 67], dtype=dtype, padding=3, offset=1),
        )
        yield f"{name} aligned", partial(check_fisher, rows=520, sizes=[16, 136], dtype=dtype)
