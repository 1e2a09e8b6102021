"""From a loss of masks to one order of all units, heads and filters alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastprune.spp.path import follow_paths
from fastprune.structure import Site

KAPPA = 10.0
NU = 1.0
"""By the inverse of the largest curvature."""
FISHER_STEPS = 2000
PASS_STEPS = 500


def entry_order(
    gradient: Callable[[Tensor], Tensor],
    curvature: float,
    sites: Sequence[Site],
    device: torch.device,
    *,
    steps: int,
    progress: bool = False,
) -> Tensor:
    """The order in which the units of all sites enter a solution path.

    Thresholds are what a unit costs in weights, by the cheapest unit's: of two that the loss needs
    equally the cheaper one enters first.

    Args:
        gradient: of the loss at masks float32 [1, units of all sites], in the same shape.
        curvature: the largest of the loss at the dense model.
        sites: in order.
        device: where the path is followed.
        steps: to take at most; units that have not entered by then come last.
        progress: show a progress bar.

    Returns:
        int64 [units of all sites] on the CPU, the first to enter first.

    Raises:
        NumericalError: a path that does not stay finite.
    """
    costs = torch.cat([torch.full((site.units,), float(site.weights_per_unit)) for site in sites])
    paths = follow_paths(
        gradient,
        curvature,
        (costs / costs.min()).to(device)[None],
        torch.tensor([NU / curvature]),
        kappa=KAPPA,
        steps=steps,
        progress=progress,
    )
    return paths.order(0)
