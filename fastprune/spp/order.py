"""From gradients of masks to one order of all units, heads and filters alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.spp.path import follow_paths
from fastprune.spp.quadratic import FisherLoss
from fastprune.structure import Site

KAPPA = 10.0
NU = 1.0
STEPS = 2000


def entry_order(rows: Tensor, sites: Sequence[Site], *, progress: bool = False) -> Tensor:
    """The order in which the units of all sites enter the solution path of the Fisher loss.

    Thresholds are what a unit costs in weights, by the cheapest unit's: of two that the loss needs
    equally the cheaper one enters first.

    Args:
        rows: float32 [samples, units of all sites], gradients of the masks.
        sites: in order.
        progress: show a progress bar.

    Returns:
        int64 [units of all sites] on the CPU, the first to enter first.

    Raises:
        NumericalError: gradients that no path starts from.
    """
    loss = FisherLoss(rows)
    costs = torch.cat([torch.full((site.units,), float(site.weights_per_unit)) for site in sites])
    paths = follow_paths(
        loss.gradient,
        loss.curvature,
        (costs / costs.min()).to(rows)[None],
        torch.tensor([NU / loss.curvature]),
        kappa=KAPPA,
        steps=STEPS,
        progress=progress,
    )
    return paths.order(0)
