"""Block-diagonal least squares, with systems that cannot be solved."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from emulated.common import DOUBLE, FLOAT, ROUNDOFF, Case, check, gamma


def spd(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.standard_normal((2 * n, n))
    return x.T @ x / max(n, 1) + np.eye(n)


def check_lstsq(e, rng, sizes, columns=1, dtype=DOUBLE, damping=0.0, spoil=None):
    """`spoil` maps a site to what is done to its (system, rhs); it returns the info expected."""
    systems = [spd(rng, n).astype(dtype) for n in sizes]
    rhs = [rng.standard_normal((n, columns)).astype(dtype) for n in sizes]
    expected_info = [0] * len(sizes)
    for site, damage in (spoil or {}).items():
        expected_info[site] = damage(systems[site], rhs[site])
    lower_only = [np.where(np.tri(len(s), dtype=bool), s, np.nan).astype(dtype) for s in systems]
    empty = np.empty(0, dtype)
    flat = np.concatenate([s.ravel() for s in lower_only] or [empty])
    stacked = np.concatenate(rhs or [np.empty((0, columns), dtype)])
    out, info = e.block_lstsq(flat, stacked, sizes, damping)
    assert info.tolist() == expected_info
    for system, b, failed in zip(systems, rhs, expected_info, strict=True):
        x, out = out[: len(b)], out[len(b) :]
        if failed:
            assert (x == 0).all()
            continue
        if not x.size:
            continue
        exact = system.astype(np.float64)
        exact += damping * np.diag(exact).mean() * np.eye(len(b))
        expected = np.linalg.solve(exact, b.astype(np.float64))
        # Backward stability (Higham, theorem 10.4), once for us and once for the reference.
        relative = 2 * gamma(4 * (3 * len(b) + 1), DOUBLE) * len(b) * np.linalg.cond(exact)
        size = np.linalg.norm(expected, axis=0)
        check(x, expected, relative * size + ROUNDOFF[np.dtype(dtype)] * np.abs(expected))


def not_definite(at: int):
    def damage(system, rhs):
        system[at, at] = -1
        return at + 1

    return damage


def not_finite(row: int, column: int, value: float):
    def damage(system, rhs):
        system[row, column] = value
        return row + 1

    return damage


def rhs_not_finite(value: float):
    def damage(system, rhs):
        rhs[-1, -1] = value
        return -1

    return damage


def zero(system, rhs):
    system[:] = 0
    return 1


def lstsq_cases() -> Iterator[tuple[str, Case]]:
    for sizes in [
        [],
        [0],
        [1],
        [0, 1, 2, 0, 3],
        [12, 12, 31],
        [63, 64],
        [65],
        [66, 5, 130],
        [64, 128, 129, 193],
        [31, 32, 7],
        [33, 1, 64, 32],
        [2, 65, 3, 0, 70, 4],
        [3] * 33,
        [1, 2] * 60,
        [0, 1, 1, 2] * 390,
        [2, 65] * 4,
    ]:
        name = str(sizes) if len(sizes) < 9 else f"{len(sizes)} sites of up to {max(sizes)}"
        yield name, partial(check_lstsq, sizes=sizes)
    for columns, dtype in itertools.product((0, 1, 15, 17, 33), (FLOAT, DOUBLE)):
        yield (
            f"{columns} columns, {dtype}",
            partial(check_lstsq, sizes=[5, 70], columns=columns, dtype=dtype, damping=0.1),
        )
    for columns in (3, 4, 5, 64, 65, 130):
        yield (
            f"small, {columns} columns",
            partial(check_lstsq, sizes=[1, 34, 6], columns=columns, damping=0.1),
        )
    spoils = {
        "indefinite": not_definite(3), "NaN": not_finite(4, 2, np.nan),
        "infinity": not_finite(4, 1, np.inf), "NaN rhs": rhs_not_finite(np.nan),
        "infinite rhs": rhs_not_finite(-np.inf), "zero": zero,
    }  # fmt: skip
    for name, damage in spoils.items():
        spoil = {1: damage, 3: damage}
        yield (
            f"{name}",
            partial(check_lstsq, sizes=[4, 9, 70, 72], columns=2, damping=0.01, spoil=spoil),
        )
        yield (
            f"{name}, two rows a lane",
            partial(check_lstsq, sizes=[4, 37, 50, 64], columns=70, damping=0.01, spoil=spoil),
        )
    # A block that gives one system up must not run into its own last readers with the next one.
    spoil = {0: not_definite(3), 1: not_definite(66)}
    yield "early pivot, then others", partial(check_lstsq, sizes=[70, 140, 72], spoil=spoil)
    spoil = {0: not_definite(70), 1: not_finite(68, 3, np.nan), 3: not_finite(7, 7, np.inf)}
    yield "late pivot", partial(check_lstsq, sizes=[75, 71, 67, 9], spoil=spoil)
