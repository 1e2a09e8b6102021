"""Rearrangement of masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from emulated.common import Case


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
