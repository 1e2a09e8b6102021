"""From a loss of masks to one order of all units, heads and filters alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastprune.spp.path import follow_paths
from fastprune.spp.quadratic import FisherLoss
from fastprune.structure import Site

KAPPA = 10.0
NU = 10.0
"""By the inverse of the largest curvature."""
THRESHOLD = 0.01
"""Of the cheapest unit. Curvatures of units span four orders of magnitude and steps must suit the
largest: at a threshold of 1 a thousand steps let 1 % of the units of a small BERT in, at this one
half of them."""
FISHER_STEPS = 2000
PASS_STEPS = 300


def entry_order(
    gradient: Callable[[Tensor], Tensor],
    fisher: FisherLoss,
    sites: Sequence[Site],
    *,
    steps: int,
    progress: bool = False,
) -> Tensor:
    """The order in which the units of all sites enter a solution path.

    Thresholds grow with what a unit costs in weights: of two that the loss needs equally the
    cheaper one enters first. Masks start where they rest while gates are closed. From 1 they would
    fall there at once, which raises all duals alike, by ``1 / kappa``, and tells nothing.

    Args:
        gradient: of the loss at masks float32 [1, units of all sites], in the same shape.
        fisher: the loss to second order, whose curvature sets the length of steps.
        sites: in order.
        steps: to take at most; units that have not entered by then come last.
        progress: show a progress bar.

    Returns:
        int64 [units of all sites] on the CPU, the first to enter first.

    Raises:
        NumericalError: a path that does not stay finite.
    """
    nu = torch.tensor([NU / fisher.curvature])
    start = fisher.at_rest(nu)
    costs = torch.cat([torch.full((site.units,), float(site.weights_per_unit)) for site in sites])
    paths = follow_paths(
        gradient,
        fisher.curvature,
        (THRESHOLD * costs / costs.min()).to(start)[None],
        nu,
        kappa=KAPPA,
        steps=steps,
        start=start,
        progress=progress,
    )
    return paths.order(0)
