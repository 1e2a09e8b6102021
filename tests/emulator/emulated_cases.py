"""Hostile inputs for every emulated operation, each checked against a float64 reference.

Error bounds are the textbook ones: a sum of n products in arithmetic of unit roundoff u differs
from the exact one by at most gamma(n) * sum |products|, gamma(n) = n * u / (1 - n * u), in any
order of summation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from emulator import Emulator, bfloat16, to_bfloat16, to_float64

FLOAT, HALF, DOUBLE = (np.dtype(t) for t in (np.float32, np.float16, np.float64))
INPUTS = {"f32": FLOAT, "bf16": bfloat16, "f16": HALF}
ROUNDOFF = {FLOAT: 2.0**-24, DOUBLE: 2.0**-53}

Case = Callable[[Emulator, np.random.Generator], None]


def gamma(terms: int, dtype: np.dtype = FLOAT) -> float:
    nu = terms * ROUNDOFF[dtype]
    return nu / (1 - nu)


def check(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    assert np.isfinite(actual).all(), "not finite"
    error = np.abs(actual.astype(np.float64) - expected)
    assert (error <= bound).all(), (
        f"error {error.max():.3g}, worst excess {(error - bound).max():.3g}"
    )


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    values = rng.standard_normal(shape)
    return to_bfloat16(values) if dtype == bfloat16 else values.astype(dtype)


def filled_with_nan(size: int, dtype: np.dtype) -> np.ndarray:
    nan = np.full(size, np.nan, np.float32)
    return to_bfloat16(nan) if dtype == bfloat16 else nan.astype(dtype)


def embed(array: np.ndarray, padding: int, offset: int) -> np.ndarray:
    """The same values with NaN between the rows, starting `offset` elements into an allocation."""
    rows, width = int(np.prod(array.shape[:-1])), array.shape[-1]
    buffer = filled_with_nan(offset + rows * (width + padding), array.dtype)
    view = buffer[offset:].reshape(*array.shape[:-1], width + padding)[..., :width]
    view[...] = array
    return view


def symmetric(matrix: np.ndarray) -> bool:
    return np.array_equal(matrix.view(np.uint8), np.ascontiguousarray(matrix.T).view(np.uint8))


# ---- mask_grad ----------------------------------------------------------------------------------


def check_mask_grad(
    e, rng, samples, tokens, units, group, dtype=FLOAT, padding=0, offset=0, invalid=False
):
    shape = (samples, tokens, units * group)
    x, grad = (draw(rng, shape, dtype) for _ in range(2))
    valid = np.ones((samples, tokens), np.uint8)
    if invalid:
        valid = (rng.random((samples, tokens)) < 0.5).astype(np.uint8)
        x[valid == 0] = grad[valid == 0] = filled_with_nan(1, dtype)[0]
    actual = e.mask_grad(
        embed(x, padding, offset), embed(grad, 2 * padding, offset), group,
        valid=valid if invalid else None,
    )  # fmt: skip
    products = np.where(valid[..., None], to_float64(x) * to_float64(grad), 0.0)
    products = products.reshape(samples, tokens, units, group)
    check(actual, products.sum((1, 3)), gamma(tokens * group + 1) * np.abs(products).sum((1, 3)))


def check_packed_mask_grad(e, rng, lengths, units, group, dtype=FLOAT, padding=0):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    x, grad = (draw(rng, (int(offsets[-1]), units * group), dtype) for _ in range(2))
    actual = e.mask_grad(embed(x, padding, 0), grad, group, offsets=offsets)
    products = (to_float64(x) * to_float64(grad)).reshape(-1, units, group).sum(2)
    size = np.abs(to_float64(x) * to_float64(grad)).reshape(-1, units, group).sum(2)
    for sample, (begin, end) in enumerate(itertools.pairwise(offsets)):
        bound = gamma((end - begin) * group + 1) * size[begin:end].sum(0)
        check(actual[sample], products[begin:end].sum(0), bound)


def mask_grad_cases() -> Iterator[tuple[str, Case]]:
    shapes = [
        (0, 5, 3, 4), (2, 0, 3, 4), (1, 1, 1, 1), (2, 15, 7, 3), (1, 16, 2, 64), (2, 17, 3, 43),
        (1, 3, 127, 1), (1, 3, 128, 1), (3, 5, 129, 1), (1, 33, 3, 32), (1, 4, 5, 31),
        (2, 3, 2, 127), (1, 3, 2, 128), (2, 18, 2, 129), (1, 2, 2, 256), (1, 2, 1, 600),
        (1, 5, 257, 3),
        # Tokens around a batch of loads, and around what is split over blocks.
        (1, 31, 2, 8), (1, 32, 2, 8), (1, 33, 2, 8), (1, 63, 3, 8), (1, 64, 3, 8), (1, 65, 3, 8),
        (2, 127, 1, 40), (2, 128, 1, 40), (2, 129, 1, 40), (1, 331, 130, 1), (1, 200, 1, 136),
    ]  # fmt: skip
    for shape in shapes:
        yield (
            f"{shape}",
            partial(
                check_mask_grad, samples=shape[0], tokens=shape[1], units=shape[2], group=shape[3]
            ),
        )
    for name, dtype in INPUTS.items():
        options = {"samples": 2, "tokens": 19, "units": 4, "group": 40, "dtype": dtype}
        yield f"{name} aligned", partial(check_mask_grad, **options)
        yield f"{name} aligned, strided", partial(check_mask_grad, **options, padding=16, offset=0)
        yield f"{name} unaligned", partial(check_mask_grad, **options, offset=1)
        yield f"{name} unaligned rows", partial(check_mask_grad, **options, padding=3)
        yield f"{name} invalid", partial(check_mask_grad, **options, invalid=True)
        yield (
            f"{name} packed",
            partial(
                check_packed_mask_grad,
                lengths=[3, 0, 40, 1],
                units=24,
                group=8,
                dtype=dtype,
                padding=8,
            ),
        )
        for tokens in (1, 64, 67, 129, 200):
            options = {"samples": 3, "tokens": tokens, "units": 3, "group": 48, "dtype": dtype}
            yield f"{name}, {tokens} tokens", partial(check_mask_grad, **options)
            yield (
                f"{name}, {tokens} tokens, some invalid",
                partial(check_mask_grad, **options, invalid=True),
            )
        yield (
            f"{name} packed, split",
            partial(
                check_packed_mask_grad, lengths=[130, 0, 1, 70], units=9, group=16, dtype=dtype
            ),
        )
    yield "packed nothing", partial(check_packed_mask_grad, lengths=[0, 0], units=2, group=8)
    yield "packed none", partial(check_packed_mask_grad, lengths=[], units=2, group=8)


# ---- gram and fisher_outer ----------------------------------------------------------------------


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


# ---- greedy_rearrange ---------------------------------------------------------------------------


def rearranged(block: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The definition: every cost from scratch."""
    order = np.argsort(np.diag(block), kind="stable")
    pruned = int((mask == 0).sum())
    chosen = list(order[:pruned])
    if 0 < pruned < len(mask):
        for unit in order[pruned:]:
            chosen.append(unit)
            response = block[np.ix_(chosen, chosen)].sum(0)
            cost = response.sum() - 2 * response + np.diag(block)[chosen]
            chosen.pop(int(np.argmin(cost)))
    else:
        chosen = list(np.flatnonzero(mask == 0))
    result = np.ones(len(mask), np.float32)
    result[chosen] = 0
    return result


def check_greedy(e, rng, sizes, problems=2, integer=False, pruned=None):
    blocks = []
    for n in sizes:
        rows = n + 3 if n < 400 else 8
        grads = rng.integers(-1, 2, (6, n)) if integer else rng.standard_normal((rows, n))
        blocks.append((grads.T @ grads).astype(np.float32))
    masks = (rng.random((problems, sum(sizes))) < 0.5).astype(np.float32) * 2
    if pruned is not None:
        masks[:] = 1
        starts = np.cumsum([0, *sizes[:-1]])
        for start, n in zip(starts, sizes, strict=True):
            masks[:, start : start + min(pruned, n)] = 0
    flat = np.concatenate([b.ravel() for b in blocks] or [np.empty(0, np.float32)])
    actual = e.greedy_rearrange(flat, sizes, masks)
    for problem in range(problems):
        start = 0
        for block, n in zip(blocks, sizes, strict=True):
            expected = rearranged(block.astype(np.float64), masks[problem, start : start + n])
            assert np.array_equal(actual[problem, start : start + n], expected), f"site of {n}"
            start += n


def check_greedy_nan(e, rng):
    """Whatever a damaged block holds, the number of kept units stays."""
    blocks = rng.standard_normal((40, 40)).astype(np.float32)
    blocks[3] = blocks[:, 3] = blocks[20, 20] = np.nan
    masks = np.concatenate([np.zeros((1, 15)), np.ones((1, 25))], 1).astype(np.float32)
    actual = e.greedy_rearrange(blocks.ravel(), [40], masks)
    assert sorted(actual[0]) == sorted(masks[0])


def check_greedy_zeros(e, rng):
    """Costs that are zeros of either sign are ties."""
    blocks = np.diag(np.where(rng.random(70) < 0.5, -0.0, 0.0)).astype(np.float32)
    masks = (rng.random((3, 70)) < 0.5).astype(np.float32)
    actual = e.greedy_rearrange(blocks.ravel(), [70], masks)
    assert np.array_equal(actual, [rearranged(blocks.astype(np.float64), mask) for mask in masks])


def greedy_cases() -> Iterator[tuple[str, Case]]:
    for sizes in [[], [0], [1, 2, 3], [12, 0, 33], [31, 32], [65, 7], [1, 2] * 60]:
        name = str(sizes) if len(sizes) < 9 else f"{len(sizes)} sites"
        yield name, partial(check_greedy, sizes=sizes)
    yield "no problems", partial(check_greedy, sizes=[3], problems=0)
    # One either side of what a block's threads hold at so many units each, and of what they hold at
    # most; the reference takes few steps.
    for n in (511, 512, 513, 1024, 1025, 2049, 3073, 4096, 4097):
        yield f"{n} units", partial(check_greedy, sizes=[n], problems=1, pruned=n - 3)
    yield "wide beside narrow", partial(check_greedy, sizes=[3, 1030, 12], pruned=1027)
    yield "wide in memory, several", partial(check_greedy, sizes=[5, 4099, 40], pruned=4097)
    for rows in range(1, 6):  # of the first response, some of them at once
        yield f"{rows} of 40 pruned", partial(check_greedy, sizes=[40], pruned=rows)
    for pruned in (0, 1, 36, 37):
        yield f"{pruned} of 37 pruned", partial(check_greedy, sizes=[37], pruned=pruned)
    yield "ties", partial(check_greedy, sizes=[40, 13, 64], problems=3, integer=True)
    yield "zeros of either sign", check_greedy_zeros
    yield "NaN", check_greedy_nan


# ---- tuning_system ------------------------------------------------------------------------------


def check_tuning(
    e, rng, units, group, outputs, stat=DOUBLE, weight_dtype=FLOAT, padding=0, offset=0
):
    columns = units * group
    x = rng.standard_normal((max(columns, 1), columns))
    gram = (x.T @ x / max(columns, 1)).astype(stat)
    gram = np.ascontiguousarray(np.tril(gram) + np.tril(gram, -1).T)
    weight = draw(rng, (outputs, columns), weight_dtype)
    cross = rng.standard_normal((columns, outputs)).astype(stat)
    a, b = e.tuning_system(gram, embed(weight, padding, offset), cross, group)

    w, g, c = to_float64(weight), gram.astype(np.float64), cross.astype(np.float64)
    real = DOUBLE if weight_dtype == DOUBLE else FLOAT
    blocks = (units, group, units, group)
    expected = (w.T @ w * g).reshape(blocks).sum((1, 3))
    size = (np.abs(w).T @ np.abs(w) * np.abs(g)).reshape(blocks).sum((1, 3))
    depth = min(outputs, 256) + 1
    slack = gamma(outputs + group * group + 2, DOUBLE)  # the f64 part and the reference's own sums
    bound = (gamma(depth, real) + 2 * slack + ROUNDOFF[stat]) * size
    check(a, expected, 1.01 * bound)
    assert symmetric(a)
    terms = (c * w.T).reshape(units, group * outputs)
    slack = 2 * gamma(group * outputs + 2, DOUBLE) + ROUNDOFF[stat]
    check(b, terms.sum(1), 1.01 * slack * np.abs(terms).sum(1))


def tuning_cases() -> Iterator[tuple[str, Case]]:
    shapes = [
        (0, 4, 3), (1, 1, 1), (3, 2, 0), (5, 1, 7), (65, 1, 5), (9, 3, 17), (4, 16, 31),
        (3, 21, 33), (23, 5, 3), (12, 6, 2), (2, 32, 16), (3, 33, 5), (2, 63, 4), (2, 64, 40),
        (3, 65, 20), (2, 128, 3),
        (2, 129, 3), (1, 256, 2), (3, 1, 260),
    ]  # fmt: skip
    for units, group, outputs in shapes:
        yield (
            f"({units}, {group}, {outputs})",
            partial(check_tuning, units=units, group=group, outputs=outputs),
        )
    weights = {**INPUTS, "f64": DOUBLE}
    for (name, weight), stat in itertools.product(weights.items(), (FLOAT, DOUBLE)):
        yield (
            f"{name} weight, {stat}",
            partial(
                check_tuning,
                units=5,
                group=20,
                outputs=35,
                stat=stat,
                weight_dtype=weight,
                padding=3,
                offset=1,
            ),
        )


# ---- block_lstsq --------------------------------------------------------------------------------


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


# ---- obs_greedy ---------------------------------------------------------------------------------


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


# ---- trajectory_distance ------------------------------------------------------------------------


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


# ---- path_step ----------------------------------------------------------------------------------


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


# ---- hard_concrete ------------------------------------------------------------------------------


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


# ---- masked_norm and its derivatives ------------------------------------------------------------


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


# ---- All ----------------------------------------------------------------------------------------

CASES: dict[str, Case] = {
    f"{op}: {name}": case
    for op, cases in {
        "mask_grad": mask_grad_cases, "gram": gram_cases, "fisher_outer": fisher_cases,
        "greedy_rearrange": greedy_cases, "tuning_system": tuning_cases, "block_lstsq": lstsq_cases,
        "obs_greedy": obs_cases, "trajectory_distance": trajectory_cases,
        "path_step": path_step_cases, "hard_concrete": hard_concrete_cases,
        "masked_norm": masked_norm_cases, "masked_norm_backward": masked_norm_backward_cases,
    }.items()
    for name, case in cases()
}  # fmt: skip


def run(emulator: Emulator, name: str) -> None:
    """One case, with numbers that depend on its name alone."""
    CASES[name](emulator, np.random.default_rng(list(name.encode())))
