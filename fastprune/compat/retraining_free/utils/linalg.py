"""The two solvers of the original, without CuPy."""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune import ops
from fastprune.errors import NumericalError
from fastprune.parity import LAST_SUCCESS, damped_lsmr


@torch.no_grad()
def closed_form_solver(A: Tensor, B: Tensor) -> Tensor:
    """The exact solution of normal equations ``A x = B``, computed in float64.

    Args:
        A: ``[n, n]``, symmetric positive definite; ``n`` up to 4096.
        B: ``[n]``.

    Raises:
        NumericalError: ``A`` is singular, or something is not finite.
    """
    rhs = B.double()
    solution, info = ops.block_lstsq(A.double().flatten(), rhs, [len(rhs)], 0.0)
    if int(info) != 0:
        raise NumericalError(
            "the normal matrix is singular or not finite; use lsmr_cupy_solver, which damps it"
        )
    return solution.to(B.dtype)


@torch.no_grad()
def lsmr_cupy_solver(A: Tensor, B: Tensor) -> tuple[Tensor, bool]:
    """Scales around one from normal equations ``A x = B``, by damped LSMR in float32.

    SciPy's LSMR stands in for CuPy's, with its limit of iterations. A system of one unknown, over
    which the original stumbles, is solved directly.

    Args:
        A: ``[n, n]``, symmetric positive semi-definite.
        B: ``[n]``.

    Returns:
        ``(x [n], success)``: whether LSMR converged. ``x`` is float32 on the device of ``A``.
    """
    deviation, reason = damped_lsmr(A, B - A.sum(dim=1))
    return 1 + deviation, reason <= LAST_SUCCESS
