"""Solvers: from the least-squares problem of a site to a better output projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune import ops
from fastprune.structure.site import Site
from fastprune.tuning.system import LeastSquares

# Ridge relative to the mean diagonal of the normal matrix. One per cent is where the prototype
# stood; between 0.1 and 5 per cent the choice makes no clear difference.
RIDGE = 1e-2
# Scales are damped more: the loss depends on few directions of an output, which leaves most
# combinations of scales undetermined.
SCALE_RIDGE = 1e-1
# Scales beyond this are a sign of a system that determines nothing (Kwon et al. 2022's code).
_LARGEST_SCALE = 10.0


@dataclass(frozen=True)
class Update:
    """A new output projection.

    Attributes:
        weight: [outputs, columns].
        bias: [outputs], or None where it stays.
    """

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Tuner:
    """A way to tune.

    Attributes:
        solve: a better projection for a site, from its least-squares problem, its weight
            [outputs, columns] and its bias [outputs] or None.
        emptied: also visit FFNs that lost every filter, whose bias can still be corrected.
        first_attention: whether the first attention sublayer is tuned.
        stop_at_failure: whether one site that fails ends all tuning; otherwise it alone keeps its
            values.
    """

    solve: Callable[[Site, LeastSquares, Tensor, Tensor | None], Update]
    emptied: bool = False
    first_attention: bool = True
    stop_at_failure: bool = False


class SolveFailure(Exception):
    """The site keeps its untuned values; the message says why."""


def reconstruct_weights(
    site: Site, system: LeastSquares, weight: Tensor, bias: Tensor | None
) -> Update:
    """Re-solve the kept columns of the output projection by ridge regression.

    Minimises ``sum |r - dW x - db|^2 + lambda |dW|^2``: the change is damped, not the weights, and
    the bias is free. One Cholesky factorisation serves all outputs.

    Args:
        site: whose projection it is.
        system: its least-squares problem.
        weight: [outputs, columns], as it is.
        bias: [outputs] or None.

    Raises:
        SolveFailure: the normal matrix is not positive definite or not finite.
    """
    gram, cross = (system.gram, system.cross) if bias is None else system.centred()
    # Relative to the moments about zero: those about the mean can vanish into rounding.
    ridge = RIDGE * system.gram.diagonal().mean()
    damped = gram + ridge * torch.eye(site.columns, dtype=gram.dtype, device=gram.device)
    solution, info = ops.block_lstsq(damped.flatten(), cross, [site.columns], 0.0)
    _check(info)
    change = solution.T
    if bias is None:
        return Update(weight.double() + change)
    n = max(system.rows, 1)
    shift = (system.error_sum - change @ system.x_sum) / n
    return Update(weight.double() + change, bias.double() + shift)


def scale_units(site: Site, system: LeastSquares, weight: Tensor, bias: Tensor | None) -> Update:
    """Rescale each kept unit by one number: mask tuning (Kwon et al. 2022, section 4.3).

    The scale is folded into the unit's columns of the projection. One number per unit cannot make
    every output right, so errors are weighed by how much the loss depends on each direction of
    the output, where the system has such a metric.

    Raises:
        SolveFailure: no solution, or scales that are out of all proportion.
    """
    # At scale 1 the error is r, so the right-hand side belongs to the deviation from 1.
    seen, cross = weight, system.cross
    if system.metric is not None:
        root = _square_root(system.metric)
        seen, cross = root @ weight.double(), cross @ root
    matrix, rhs = ops.tuning_system(system.gram, seen, cross, site.group)
    deviation, info = ops.block_lstsq(matrix.flatten(), rhs, [site.units], SCALE_RIDGE)
    _check(info)
    return apply_scales(site, weight, 1 + deviation)


def _square_root(metric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(metric.double())
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def apply_scales(site: Site, weight: Tensor, scales: Tensor) -> Update:
    """Fold one scale per unit into the projection.

    Args:
        scales: [units].

    Raises:
        SolveFailure: scales beyond +-10.
    """
    largest = scales.abs().max().item()
    if not largest <= _LARGEST_SCALE:
        raise SolveFailure(f"a scale of {largest:.3g} is out of all proportion")
    return Update(weight.double() * scales.repeat_interleave(site.group).double())


def _check(info: Tensor) -> None:
    code = int(info[0])
    if code > 0:
        raise SolveFailure(f"the normal matrix is singular at unknown {code - 1}")
    if code < 0:
        raise SolveFailure("the calibration activations are not finite here")
