"""The solver of the released code: damped LSMR on a normal matrix, in single precision."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import lsmr
from torch import Tensor

# LSMR's reasons to stop that count as success: x = 0, or a solution within atol/btol.
LAST_SUCCESS = 2
# Iterations per unknown before it gives up: the limit of CuPy's LSMR, which the release calls.
_PATIENCE = 5


def damped_lsmr(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, int]:
    """Minimise ``|A x - b|^2 + |x|^2``, stopping as early as LSMR's default tolerances say.

    Args:
        matrix: ``A [n, n]``.
        rhs: ``b [n]``.

    Returns:
        ``(x [n], reason)``: float32 on the device of ``matrix``, and why LSMR stopped, up to
        :data:`LAST_SUCCESS` because it had converged. For one unknown the original takes an
        undefined variable; this is the undamped solution it meant.
    """
    a, b = (t.cpu().numpy().astype(np.float32) for t in (matrix, rhs))
    if len(b) == 1:
        solution, reason = b / a[0, 0], 1
    else:
        with np.errstate(over="ignore"):  # its running condition estimate, not the solution
            solution, reason, *_ = lsmr(a, b, damp=1.0, maxiter=_PATIENCE * len(b))
    return torch.from_numpy(solution).to(matrix.device, torch.float32), reason
