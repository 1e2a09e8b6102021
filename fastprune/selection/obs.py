"""Structured Optimal Brain Surgeon: which units go if those that stay can make up for them.

A diagonal score asks what is lost with a unit while all others stay as they are. Optimal Brain
Surgeon (Hassibi and Stork 1993; for structures Kurtic et al. 2023, ZipLM) asks what is lost after
the others have been re-solved by least squares. Errors of an output are measured by how much the
loss depends on them: with ``H`` the Gram of the inputs, tokens weighed by their gradients, ``F``
the second moment of those gradients and ``n`` tokens, changing the projection by ``D`` costs
``tr(D H D^T F) / 2n``, a Kronecker-factored Fisher information (calibration/moments.py). What a
unit costs is therefore in units of the loss (nats per sample) and comparable between sites; ``F``
decides which units go, not how the others make up for them. Costs rank, they do not foretell: what
tokens and layers do to each other is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration import Statistics
from fastprune.device import path_bytes
from fastprune.errors import NumericalError
from fastprune.numerics import RIDGE
from fastprune.selection.paths import RemovalPath
from fastprune.structure import Site, get_projection

# Directions of an output that no sample's loss depends on count this much of the mean, so that
# rounding in float32 sums cannot make the metric indefinite.
_METRIC_FLOOR = 1e-4
# A variance below this share of the mean square is rounding: of bfloat16 inputs that never change,
# multiplied by the roots of their weights, it is half of this.
_CONSTANT = 1e-5
_EXTREME = (
    "{}: no order of removal can be found in the moments collected there; check the calibration "
    "samples for extreme activations, or use --dtype float32"
)
_TINY = torch.finfo(torch.float64).tiny


def removal_paths(
    model: nn.Module, sites: Sequence[Site], statistics: Statistics, *, plain: bool = False
) -> list[RemovalPath]:
    """Remove the units of every site one after the other, each time the one that costs least.

    Args:
        model: whose output projections are looked at; they stay as they are.
        sites: its sites.
        statistics: of these sites, with ``output_fisher`` and ``input_moments``.
        plain: measure errors of outputs by plain squares, relative to the size of the output,
            instead of by how much the loss depends on them.

    Returns:
        One path per site.

    Raises:
        NumericalError: activations or gradients that no path can be found with.
    """
    _, fisher = statistics.kronecker_factors()
    paths = []
    for some in _portions(sites, path_bytes(fisher.device)):
        problems = [_problem(model, sites[i], statistics, i, plain) for i in some]
        order, curve, info = ops.obs_greedy(
            torch.cat([problem.inverse.flatten() for problem in problems]),
            torch.cat([problem.weight for problem in problems]),
            [sites[i].units for i in some],
            [sites[i].group for i in some],
        )
        if info.any():
            failed = sites[some[int(info.nonzero()[0])]].name
            raise NumericalError(_EXTREME.format(failed))
        sizes = [sites[i].units for i in some]
        paths += [
            _path(removed, errors * problem.unit)
            for removed, errors, problem in zip(
                order.split(sizes), curve.split(sizes), problems, strict=True
            )
        ]
    if not any(path.errors[0] > 0 for path in paths):
        raise NumericalError(
            "by these samples no unit costs anything, because the inputs of no layer vary; "
            "calibrate on more samples, or use method fisher"
        )
    return paths


@dataclass(frozen=True)
class _Problem:
    """What removing units of one site is about; all float64.

    Attributes:
        inverse: [columns, columns], of the Gram of the inputs.
        weight: [columns, outputs], the transposed projection in the metric of the errors.
        unit: scalar; what an error of one stands for.
    """

    inverse: Tensor
    weight: Tensor
    unit: Tensor


def _problem(
    model: nn.Module, site: Site, statistics: Statistics, index: int, plain: bool
) -> _Problem:
    moments, fisher = statistics.kronecker_factors()
    weight, bias = get_projection(model, site)
    # About the mean where tuning leaves a bias free. The ridge is that of tuning; but tuning damps
    # what changes of the weights that stay, and here it also counts for what goes: while few units
    # have gone, errors come out up to twice as large as what tuning leaves.
    gram = moments.about_zero(index) if bias is None else moments.about_mean(index)
    squares = moments.squares(index)
    varies = gram.diagonal() > _CONSTANT * squares
    ridge = RIDGE * squares.mean()
    gram.diagonal().add_(ridge.where(ridge > 0, 1))
    inverse = torch.cholesky_inverse(_factor(gram, site))
    # Inputs that never change cost nothing, whatever the ridge says: the bias makes up for them.
    rows = weight.detach().to(gram).T * varies[:, None]
    if plain:
        size = (moments.about_zero(index) @ rows * rows).sum()
        return _Problem(inverse, rows.contiguous(), 1 / size.clamp(min=_TINY))
    metric = fisher[index].double()
    metric.diagonal().add_((_METRIC_FLOOR * metric.diagonal().mean()).clamp(min=_TINY))
    tokens = moments.tokens[index].clamp(min=1)
    return _Problem(inverse, rows @ _factor(metric, site), 1 / (2.0 * tokens * statistics.samples))


def _factor(matrix: Tensor, site: Site) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info:
        raise NumericalError(_EXTREME.format(site.name))
    return factor


def _path(order: Tensor, curve: Tensor) -> RemovalPath:
    errors = np.concatenate([[0.0], curve.double().cpu().numpy()])[::-1]
    return RemovalPath(order.long().cpu(), np.ascontiguousarray(errors))


def _portions(sites: Sequence[Site], limit: int) -> Iterator[list[int]]:
    """Cut the sites into runs whose float64 Grams take about ``limit`` bytes together."""
    portion: list[int] = []
    held = 0
    for i, site in enumerate(sites):
        size = site.columns * site.columns * 8
        if portion and held + size > limit:
            yield portion
            portion, held = [], 0
        portion.append(i)
        held += size
    yield portion
