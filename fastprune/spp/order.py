"""From a loss of masks to one order of all units, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Start:
    """Where a path begins, and what its units have to exceed.

    Attributes:
        thresholds: [1, units of all sites]. They grow with what a unit costs in weights: of two
            that the loss needs equally the cheaper one enters first.
        nu: [1], how loosely masks are bound to gates.
        masks: [1, units], where masks rest while gates are closed. From 1 they would fall there at
            once, which raises the duals of all that is little needed alike and tells nothing.
    """

    thresholds: Tensor
    nu: Tensor
    masks: Tensor

    @classmethod
    def of(cls, fisher: FisherLoss, sites: Sequence[Site]) -> Start:
        """For a loss that is ``fisher`` to second order."""
        nu = torch.tensor([NU / fisher.curvature])
        masks = fisher.at_rest(nu)
        costs = [torch.full((site.units,), float(site.weights_per_unit)) for site in sites]
        flat = torch.cat(costs)
        return cls((THRESHOLD * flat / flat.min()).to(masks)[None], nu, masks)


def entry_order(
    gradient: Callable[[Tensor], Tensor],
    fisher: FisherLoss,
    sites: Sequence[Site],
    *,
    steps: int,
    progress: bool = False,
) -> Tensor:
    """The order in which the units of all sites enter a solution path.

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
    start = Start.of(fisher, sites)
    paths = follow_paths(
        gradient,
        fisher.curvature,
        start.thresholds,
        start.nu,
        kappa=KAPPA,
        steps=steps,
        start=start.masks,
        progress=progress,
    )
    return paths.order(0)
