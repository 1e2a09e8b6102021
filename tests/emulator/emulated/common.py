"""What the cases of all operations are made of.

Error bounds are the textbook ones: a sum of n products in arithmetic of unit roundoff u differs
from the exact one by at most gamma(n) * sum |products|, gamma(n) = n * u / (1 - n * u), in any
order of summation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from emulator import Emulator, bfloat16, to_bfloat16

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
