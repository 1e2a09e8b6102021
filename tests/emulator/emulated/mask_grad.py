"""Gradients of masks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
from emulator import to_float64

from emulated.common import FLOAT, INPUTS, Case, check, draw, embed, filled_with_nan, gamma


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
