"""Gradients of masks, and moments at the projections, from one backward pass.

Weights get no gradients: all that is asked for are those of activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration.moments import Moments
from fastprune.device import evaluation_mode, frozen
from fastprune.structure.site import Site


class MaskGradients:
    """Gradients of each sample's loss with respect to every unit's mask, at mask = 1.

    Inside :func:`watch_gradients`, each forward pass captures the inputs of the output
    projections, and the backward pass of a *summed* loss reduces them to one number per sample
    and unit (Kwon et al. 2022, section 4.1). No mask is ever built: with ``x`` the input,
    ``dL/dm_u = sum over tokens and the unit's columns of x * dL/dx``. Of inner sites ``x`` is what
    the first gate puts out, which the mask multiplies (:func:`fastprune.structure.masked`).
    """

    def __init__(self, sites: Sequence[Site], moments: Moments | None, *, masks: bool) -> None:
        """Watch ``sites``, add to ``moments``, and reduce gradients of masks if asked to."""
        self._sites = sites
        self._moments = moments
        self._masks = masks
        self._valid: Tensor | None = None
        self._samples = 0
        self._rows: list[Tensor | None] = []

    def begin(self, samples: int, mask: Tensor | None) -> None:
        """Announce a batch: its number of samples and its attention mask [samples, tokens]."""
        self._samples = samples
        self._valid = None if mask is None else mask.bool()
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

    def watch(self, index: int, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of the output projection of site ``index``."""
        return (self.watch_masked(index, args[0]), *args[1:])

    def watch_masked(self, index: int, x: Tensor) -> Tensor:
        """Watch what the mask of site ``index`` would multiply."""
        if not x.requires_grad:
            # With all weights frozen nothing asks for gradients yet: the graph starts here.
            x = x.detach().requires_grad_()
        if not self._masks:
            return x
        site, activations = self._sites[index], x.detach()

        def reduce(gradient: Tensor) -> None:
            self._rows[index] = self._reduce(site, activations, gradient)

        x.register_hook(reduce)
        return x

    def watch_output(self, index: int, args: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook of the output projection of site ``index``."""
        moments = self._moments
        if moments is None or not output.requires_grad:
            return
        x = args[0].detach()

        def add(gradient: Tensor) -> None:
            site = self._sites[index]
            rows = self._by_sample(site, gradient)
            moments.add(index, self._by_sample(site, x), rows, self._valid_of(rows))

        output.register_hook(add)

    def _reduce(self, site: Site, x: Tensor, gradient: Tensor) -> Tensor:
        x = self._by_sample(site, x)
        gradient = self._by_sample(site, gradient).to(x.dtype)
        rows = ops.mask_grad(x, gradient, site.group, valid=self._valid_of(x))
        return rows.view(len(rows), site.heads, site.units).sum(1) if site.heads > 1 else rows

    def _by_sample(self, site: Site, values: Tensor) -> Tensor:
        # Some models flatten tokens into rows before the FFN, others cut a sample into windows.
        by_sample = values.movedim(site.sample_axis, 0)
        return by_sample.reshape(self._samples, -1, values.shape[-1])

    def _valid_of(self, values: Tensor) -> Tensor | None:
        fits = self._valid is not None and self._valid.shape[1] == values.shape[1]
        return self._valid if fits else None


@contextmanager
def watch_gradients(
    model: nn.Module, sites: Sequence[Site], moments: Moments | None = None, *, masks: bool = True
) -> Iterator[MaskGradients]:
    """Hook a model for the duration of a ``with`` block; weights are frozen inside it.

    Dropout is off inside the block. Training mode and ``requires_grad`` flags are restored.

    Args:
        model: whose forward and backward passes to watch.
        sites: of this model.
        moments: each backward pass adds to them; not of inner sites, which have none.
        masks: whether each backward pass gives gradients of masks.
    """
    gradients = MaskGradients(sites, moments, masks=masks)
    handles: list[Any] = []
    try:
        for index, site in enumerate(sites):
            if site.gates:
                # First of all hooks, before heads of uneven widths are padded.
                handle = model.get_submodule(site.gates[0]).register_forward_hook(
                    lambda _, args, output, index=index: gradients.watch_masked(index, output),
                    prepend=True,
                )
                handles.append(handle)
                continue
            projection = model.get_submodule(site.name)
            handles += [
                projection.register_forward_pre_hook(
                    lambda _, args, index=index: gradients.watch(index, args)
                ),
                projection.register_forward_hook(
                    lambda _, args, output, index=index: gradients.watch_output(index, args, output)
                ),
            ]
        with frozen(model), evaluation_mode(model):
            yield gradients
    finally:
        for handle in handles:
            handle.remove()
