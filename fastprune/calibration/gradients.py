"""Mask gradients of every site from one backward pass, without weight gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.device import evaluation_mode
from fastprune.structure.site import Site


class MaskGradients:
    """Gradients of each sample's loss with respect to every unit's mask, at mask = 1.

    Inside :func:`watch_mask_gradients`, each forward pass captures the inputs of the output
    projections, and the backward pass of a *summed* loss reduces them to one number per sample
    and unit (Kwon et al. 2022, section 4.1). No mask is ever built: with ``x`` the input,
    ``dL/dm_u = sum over tokens and the unit's columns of x * dL/dx``.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._valid: Tensor | None = None
        self._samples = 0
        self._rows: list[Tensor | None] = []

    def begin(self, samples: int, valid: Tensor | None) -> None:
        """Announce a batch: its number of samples and its token mask, bool [samples, tokens]."""
        self._samples = samples
        self._valid = valid
        self._rows = [None] * len(self._sites)

    def take(self) -> Tensor:
        """The batch's gradients, float32 [samples, units of all sites side by side]."""
        rows = []
        for site, row in zip(self._sites, self._rows, strict=True):
            if row is None:
                # The loss does not depend on this site (a branch the task never reads).
                device = next((r.device for r in self._rows if r is not None), None)
                row = torch.zeros(self._samples, site.units, device=device)
            rows.append(row)
        self._rows = []
        return torch.cat(rows, dim=1)

    def watch(self, index: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of the output projection of site ``index``."""
        x: Tensor = args[0]
        if not x.requires_grad:
            # With all weights frozen nothing asks for gradients yet: the graph starts here.
            x = x.detach().requires_grad_()
        activations = x.detach()

        def reduce(gradient: Tensor) -> None:
            self._rows[index] = self._reduce(self._sites[index].group, activations, gradient)

        x.register_hook(reduce)
        return (x, *args[1:])

    def _reduce(self, group: int, x: Tensor, gradient: Tensor) -> Tensor:
        # Some models flatten tokens into rows before the FFN.
        x = x.reshape(self._samples, -1, x.shape[-1])
        gradient = gradient.reshape(x.shape).to(x.dtype)
        valid = self._valid
        if valid is not None and valid.shape[1] != x.shape[1]:
            valid = None
        return ops.mask_grad(x, gradient, group, valid=valid)


@contextmanager
def watch_mask_gradients(model: nn.Module, sites: Sequence[Site]) -> Iterator[MaskGradients]:
    """Hook a model for the duration of a ``with`` block; weights are frozen inside it.

    Dropout is off inside the block. Training mode and ``requires_grad`` flags are restored.
    """
    gradients = MaskGradients(sites)
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = [
        model.get_submodule(site.name).register_forward_pre_hook(
            lambda module, args, index=index: gradients.watch(index, module, args)
        )
        for index, site in enumerate(sites)
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with evaluation_mode(model):
            yield gradients
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
