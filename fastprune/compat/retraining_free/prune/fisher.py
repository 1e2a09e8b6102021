"""Gradients of the masks, one row per mini-batch, and their diagonal Fisher information."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.compat.retraining_free.prune.masks import by_site
from fastprune.device import device_of, evaluation_mode, to_device
from fastprune.errors import DataError
from fastprune.structure import Site, find_sites


def collect_mask_grads(
    model: nn.Module,
    head_mask: Tensor,
    neuron_mask: Tensor,
    dataloader: Iterable[Mapping[str, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss with respect to the masks (Kwon et al. 2022, section 4.1).

    A row belongs to a mini-batch, as in the original: the model's own loss is its mean over the
    samples, so the Fisher information depends on the batch size. Weights get no gradients.

    Args:
        model: any :func:`fastprune.find_sites` understands, on any device, whose output has a
            ``loss``.
        head_mask: ``[layers, heads]``, where the gradients are taken; ones for the dense model.
        neuron_mask: ``[layers, filters]``, likewise.
        dataloader: mini-batches with labels.

    Returns:
        ``(head_grads [batches, layers, heads], neuron_grads [batches, layers, filters])``, float32
        on the model's device.

    Raises:
        DataError: no batch, or one without labels.
        FastpruneError: masks that do not fit the model.
    """
    device = device_of(model)
    sites = find_sites(model)
    masks = by_site(sites, head_mask, neuron_mask)
    watches = [_Watch(site, masks[site.name].to(device)) for site in sites]
    shapes = {"attention": head_mask.shape, "ffn": neuron_mask.shape}
    rows: dict[str, list[Tensor]] = {kind: [] for kind in shapes}
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.enable_grad())
        for watch in watches:
            projection = model.get_submodule(watch.site.name)
            stack.callback(projection.register_forward_pre_hook(watch.apply).remove)
        for batch in dataloader:
            loss = model(**to_device(dict(batch), device)).loss
            if loss is None:
                raise DataError("a batch has no labels, so there is no loss; add them as 'labels'")
            # Every later site depends on the first, so this reaches them all, and no weight.
            torch.autograd.grad(loss, watches[0].masked)
            row = {kind: torch.zeros(shape, device=device) for kind, shape in shapes.items()}
            for watch in watches:
                row[watch.site.kind][watch.site.layer] = watch.gradient
            for kind, found in rows.items():
                found.append(row[kind])
    if not rows["ffn"]:
        raise DataError("there are no mini-batches to take gradients on; give a sample or more")
    return torch.stack(rows["attention"]), torch.stack(rows["ffn"])


@torch.no_grad()
def compute_fisher_info(grads: Tensor) -> Tensor:
    """Diagonal of the empirical Fisher information: the sum of squares over the rows.

    ``grads [rows, layers, units]`` gives ``[layers, units]``.
    """
    return grads.pow(2).sum(dim=0)


class _Watch:
    """Multiplies the input of a site's projection by its mask, and waits for the gradient."""

    def __init__(self, site: Site, mask: Tensor) -> None:
        self.site = site
        self._columns = mask.repeat_interleave(site.group)

    def apply(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = args[0]
        self.masked = x * self._columns.to(x.dtype)
        if not self.masked.requires_grad:
            # With all weights frozen nothing asks for gradients yet: the graph starts here.
            self.masked.requires_grad_()
        seen = x.detach()
        self.masked.register_hook(lambda gradient: self._reduce(seen, gradient))
        return (self.masked, *args[1:])

    def _reduce(self, x: Tensor, gradient: Tensor) -> None:
        # One loss for the whole batch: its samples are one long one.
        shape = 1, -1, x.shape[-1]
        dtype = torch.float32 if x.dtype == torch.float64 else x.dtype
        flat, gradient = (values.to(dtype).reshape(shape) for values in (x, gradient))
        self.gradient = ops.mask_grad(flat, gradient, self.site.group)[0]
