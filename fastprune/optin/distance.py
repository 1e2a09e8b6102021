"""A stand-in for ``ops.trajectory_distance``, until that is here."""

from __future__ import annotations

import torch
from torch import Tensor


def trajectory_distance(features: Tensor, teacher: Tensor, out: Tensor | None = None) -> Tensor:
    """Squared distance of inter-token similarities: float64 [variants], added to ``out`` if given.

    Args:
        features: [variants, rows, width].
        teacher: [rows, width].
        out: float64 [variants].
    """
    student, dense = (torch.nn.functional.normalize(x.float(), dim=-1) for x in (features, teacher))
    delta = student - dense
    # S S' - T T' without ever subtracting two nearly equal products.
    half = torch.matmul(dense + delta / 2, delta.mT)
    found = (half + half.mT).double().square().sum((1, 2))
    return found if out is None else out.add_(found)
