"""Solution paths as an optimizer: what a training loop steps, saves and resumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastprune import ops
from fastprune.errors import NumericalError
from fastprune.spp.order import KAPPA, Start
from fastprune.spp.path import SolutionPaths, step_length
from fastprune.structure import Site, masked


class MaskedLoss(nn.Module):
    """A model whose only parameters are its masks.

    Attributes:
        masks: float64 [1, units of all sites], so that checkpoints hold crossing times to the last
            digit: an optimizer's state is saved in the type of its parameters.
    """

    def __init__(self, model: nn.Module, sites: list[Site], masks: Tensor) -> None:
        """Args: model: frozen, in evaluation mode. masks: to start from, [1, units]."""
        super().__init__()
        self.masks = nn.Parameter(masks.double())
        self._sites = sites
        # Hidden from the module: checkpoints are of the masks alone.
        self._hidden = (model,)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The loss that the model itself has for a batch with labels."""
        (model,) = self._hidden
        parts = self.masks[0].float().split([site.units for site in self._sites])
        named = {site.name: part for site, part in zip(self._sites, parts, strict=True)}
        with masked(model, named, self._sites):
            return {"loss": model(**batch).loss}


class Inclusion(Optimizer):
    """Steps of :func:`fastprune.spp.follow_paths` for one path, with gradients of mini-batches."""

    def __init__(self, masks: nn.Parameter, start: Start, curvature: float) -> None:
        """Args: masks: float64 [1, units]. start: of the path. curvature: the loss's largest."""
        self._thresholds = start.thresholds.to(masks)
        nu = start.nu.to(masks)
        self._lengths = {
            "kappa": torch.full_like(nu, KAPPA),
            "alpha": step_length(curvature, nu, KAPPA),
            "nu": nu,
        }
        super().__init__([masks], {"lr": 1.0})  # schedules ask for a rate; a path has none
        self.state[masks] = {
            "dual": torch.zeros_like(masks),
            "gate": torch.zeros_like(masks),
            "crossing": torch.full_like(masks, float("inf")),
            "taken": torch.zeros((), dtype=torch.float64),
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step along the gradient that has been accumulated.

        Raises:
            NumericalError: masks that do not stay finite.
        """
        (masks,) = self.param_groups[0]["params"]
        if masks.grad is None:
            return
        state = self.state[masks]
        ops.path_step(
            masks.data,
            state["dual"],
            state["gate"],
            state["crossing"],
            masks.grad,
            self._thresholds,
            step=float(state["taken"]),
            **self._lengths,
        )
        if not masks.isfinite().all():
            raise NumericalError("the masks of the solution path do not stay finite")
        state["taken"] += 1

    def path(self) -> SolutionPaths:
        """Where it has come to."""
        (masks,) = self.param_groups[0]["params"]
        state = self.state[masks]
        return SolutionPaths(
            state["crossing"] * self._lengths["alpha"][:, None],
            state["dual"] / self._thresholds,
            masks.data,
            state["gate"],
            int(state["taken"]),
        )
