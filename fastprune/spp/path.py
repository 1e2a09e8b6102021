"""Solution paths of masks: the coupled inclusion of SPP, several of them side by side.

Masks ``M`` follow the loss and are drawn to sparse gates ``G``; the gates' duals ``Z`` collect how
far the masks stay away from them (split linearised Bregman iteration: Huang et al. 2016, and Fu et
al. 2020, whose weights are masks here):

    M' = -kappa (grad L(M) + (M - G) / nu),    Z' = (M - G) / nu,    G = kappa max(Z - lambda, 0)

from masks that are given and ``G = Z = 0``: all units are closed at first, and the most needed by
their ``lambda`` open first. Without the coupling need would not count: with masks held at 1, unit
``i`` would enter at ``lambda_i nu``. With a diagonal curvature ``h`` and masks at rest, it enters
at ``lambda_i (nu + 1 / h_i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune import ops
from fastprune.errors import NumericalError
from fastprune.progress import progress_bar

_CHECK = 50
"""Steps between looks at whether anything is left to do; each look makes a GPU wait."""


@dataclass(frozen=True)
class SolutionPaths:
    """Where paths have come to.

    Attributes:
        crossing: float64 [paths, units], the time when each unit entered; infinite = it has not.
        dual: [paths, units], ``Z / lambda`` at the end: from 1 on a unit is open.
        mask: [paths, units], ``M`` at the end.
        gate: [paths, units], ``G`` at the end.
        steps: how many were taken; some may follow the last entry.
    """

    crossing: Tensor
    dual: Tensor
    mask: Tensor
    gate: Tensor
    steps: int

    def order(self, path: int) -> Tensor:
        """Units of one path by when they enter: int64 [units] on the CPU, the first ones first.

        Those that have not entered follow, those first whose duals have come closest. A dual far
        below zero is no sign of need: its unit would have to be turned around.
        """
        closest = self.dual[path].sort(descending=True, stable=True).indices
        entered = self.crossing[path][closest].sort(stable=True).indices
        return closest[entered].cpu()


def follow_paths(
    gradient: Callable[[Tensor], Tensor],
    curvature: float,
    thresholds: Tensor,
    nu: Tensor,
    *,
    kappa: float,
    steps: int,
    start: Tensor | None = None,
    progress: bool = False,
) -> SolutionPaths:
    """Follow paths until every unit has entered, or for so many steps.

    Args:
        gradient: of the loss at masks [paths, units], in the same shape.
        curvature: the largest eigenvalue of the loss's Hessian, which bounds the length of steps.
        thresholds: ``lambda``, float32 or float64 [paths, units], positive.
        nu: [paths], positive: how loosely masks are bound to gates.
        kappa: how fast masks follow.
        steps: to take at most.
        start: masks to start from, like ``thresholds``; 1 by default. While those fall to where
            they rest under closed gates, ``h nu / (1 + h nu)`` for a diagonal ``h``, duals gain
            ``1 / (kappa (1 + h nu)^2)``: where that is much beside a threshold, start at rest.
        progress: show a progress bar.

    Raises:
        NumericalError: masks that do not stay finite.
    """
    nu = nu.to(thresholds)
    kappas = torch.full_like(nu, kappa)
    alpha = step_length(curvature, nu, kappa)
    mask = torch.ones_like(thresholds) if start is None else start.clone()
    dual, gate = torch.zeros_like(mask), torch.zeros_like(mask)
    crossing = torch.full_like(mask, float("inf"), dtype=torch.float64)
    taken = 0
    with progress_bar("path", total=steps, enabled=progress, unit="step") as bar:
        while taken < steps and bool(crossing.isinf().any()):
            until = min(taken + _CHECK, steps)
            for step in range(taken, until):
                ops.path_step(
                    mask,
                    dual,
                    gate,
                    crossing,
                    gradient(mask),
                    thresholds,
                    kappa=kappas,
                    alpha=alpha,
                    nu=nu,
                    step=step,
                )
            bar.update(until - taken)
            taken = until
            if not mask.isfinite().all():
                raise NumericalError(
                    "the solution path does not stay finite: check the calibration samples for "
                    "extreme activations, or use --dtype float32"
                )
    times = crossing * alpha.double()[:, None]
    return SolutionPaths(times, dual / thresholds, mask, gate, taken)


def step_length(curvature: float, nu: Tensor, kappa: float) -> Tensor:
    """``alpha``, [paths]: half of the longest step that is stable.

    No eigenvalue of the loss and the coupling together exceeds ``curvature + 2 / nu``, and steps
    are stable below 2 over that: half of it leaves room for an estimate that is too small.
    """
    return 1 / (kappa * (curvature + 2 / nu))
