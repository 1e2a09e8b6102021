"""Strict parity with the code released for Kwon et al. 2022.

What differs from fastprune's own defaults: the Fisher rows are gradients of mini-batch means
(``fisher="batch"``), the teacher of the tuning is not the dense model but one pruned half-way, and
the normal equations are handed to LSMR, in single precision and with its default stopping rule.
The first attention sublayer is not tuned, and the first failure ends all tuning.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune import ops
from fastprune.parity.lsmr import LAST_SUCCESS, damped_lsmr
from fastprune.structure.site import Site
from fastprune.tuning.solvers import SolveFailure, Tuner, Update, apply_scales
from fastprune.tuning.system import LeastSquares


def lsmr_scales(site: Site, system: LeastSquares, weight: Tensor, bias: Tensor | None) -> Update:
    """Mask tuning as released: :func:`released_scales`, folded into the weight.

    Raises:
        SolveFailure: LSMR stopped without converging, or a scale left [-10, 10].
    """
    return apply_scales(site, weight, released_scales(site, system, weight))


def released_scales(site: Site, system: LeastSquares, weight: Tensor) -> Tensor:
    """The scale of every unit, float32 [units]: damped LSMR on the normal matrix, around one.

    Attention gets one more unknown, a constant added to every element of the output; it is solved
    for and thrown away, which is the original's way.

    Raises:
        SolveFailure: LSMR stopped without converging.
    """
    matrix, rhs = ops.tuning_system(system.gram, weight, system.cross, site.group)
    if site.kind == "attention":
        matrix, rhs = _with_constant(site, system, weight, matrix, rhs)
    deviation, reason = damped_lsmr(matrix, rhs)
    if reason > LAST_SUCCESS:
        raise SolveFailure(f"LSMR did not converge (reason {reason})")
    return 1 + deviation[: site.units]


def _with_constant(
    site: Site, system: LeastSquares, weight: Tensor, matrix: Tensor, rhs: Tensor
) -> tuple[Tensor, Tensor]:
    per_column = system.x_sum * weight.double().sum(0)
    border = per_column.view(site.units, site.group).sum(1)
    corner = torch.tensor([float(system.rows * site.outputs)], dtype=border.dtype)
    corner = corner.to(border.device)
    top = torch.cat([matrix, border[:, None]], dim=1)
    bottom = torch.cat([border, corner])[None]
    # Around one: the constant, too, is measured from 1.
    shifted = torch.cat([rhs - border, system.error_sum.sum()[None] - corner])
    return torch.cat([top, bottom]), shifted


RELEASED_TUNER = Tuner(
    lsmr_scales, first_attention=False, tuned_as_read=("ffn",), stop_at_failure=True
)
"""Mask tuning with the order and the stopping rule of the released code."""
