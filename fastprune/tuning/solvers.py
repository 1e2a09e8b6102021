"""Solvers: from the least-squares problem of a site to a better output projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune import ops
from fastprune.numerics import RIDGE
from fastprune.structure.site import Site, SiteKind
from fastprune.tuning.system import LeastSquares

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
        tuned_as_read: sublayers of the last layer that are tuned on the tokens the task reads
            alone. What either does to other tokens reaches no output.
        stop_at_failure: whether one site that fails ends all tuning; otherwise it alone keeps its
            values.
        by_sums: whether errors may be found by subtracting sums, which spares a product and costs
            digits, or always token by token.
    """

    solve: Callable[[Site, LeastSquares, Tensor, Tensor | None], Update]
    emptied: bool = False
    first_attention: bool = True
    tuned_as_read: tuple[SiteKind, ...] = ("attention", "ffn")
    stop_at_failure: bool = False
    by_sums: bool = True


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
    return _with_bias(system, weight, weight.double() + _solve(gram, cross, ridge).T, bias)


def scale_units(site: Site, system: LeastSquares, weight: Tensor, bias: Tensor | None) -> Update:
    """Rescale each kept unit by one number: mask tuning (Kwon et al. 2022, section 4.3).

    The scale is folded into the unit's columns of the projection. One number per unit cannot make
    every output right, so errors are weighed by how much the loss depends on each direction of
    the output, where the system has such a metric. The bias is free, as in reconstruction.

    Raises:
        SolveFailure: no solution, or scales that are out of all proportion.
    """
    # At scale 1 the error is r, so the right-hand side belongs to the deviation from 1.
    gram, cross = (system.gram, system.cross) if bias is None else system.centred()
    seen = weight
    if system.metric is not None:
        root = _square_root(system.metric)
        seen, cross = root @ weight.double(), cross @ root
    matrix, rhs = ops.tuning_system(gram, seen, cross, site.group)
    deviation = _solve(matrix, rhs[:, None], SCALE_RIDGE * matrix.diagonal().mean())
    scaled = apply_scales(site, weight, 1 + deviation[:, 0])
    return _with_bias(system, weight, scaled.weight, bias)


def _with_bias(system: LeastSquares, old: Tensor, new: Tensor, bias: Tensor | None) -> Update:
    """The bias that leaves no mean error once the weight has changed; it is free of any penalty."""
    if bias is None:
        return Update(new)
    change = new - old.double()
    shift = (system.error_sum - change @ system.x_sum) / max(system.rows, 1)
    return Update(new, bias.double() + shift)


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


def _solve(matrix: Tensor, rhs: Tensor, ridge: Tensor) -> Tensor:
    """Solve ``(matrix + ridge I) x = rhs``: float64 [n, n] and [n, k] to [n, k].

    Raises:
        SolveFailure: the matrix is not positive definite, or something is not finite.
    """
    n = len(matrix)
    if not torch.isfinite(matrix.diagonal()).all():
        raise SolveFailure("the calibration activations are not finite here")
    damped = matrix.clone()
    damped.diagonal().add_(ridge)
    if rhs.shape[1] == 1 and n <= ops.LARGEST_SYSTEM:
        solution, info = ops.block_lstsq(damped.flatten(), rhs, [n], 0.0)
    else:
        # One system with many right-hand sides is what vendors' libraries are best at.
        factor, info = torch.linalg.cholesky_ex(damped)
        solution = torch.cholesky_solve(rhs, factor)
    code = int(info)
    if code > 0:
        raise SolveFailure(f"the normal matrix is singular at unknown {code - 1}")
    if code < 0 or not torch.isfinite(solution).all():
        raise SolveFailure("the calibration activations are not finite here")
    return solution
