"""The loss of masked units as it is: passes of the masked model over calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fastprune.calibration.divergence import Divergence
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import (
    autocast,
    backward_attention,
    batch_tokens,
    cache_off,
    device_of,
    evaluation_mode,
    frozen,
    to_device,
)
from fastprune.structure import Site, masked


@contextmanager
def divergence_gradient(
    model: nn.Module,
    sites: Sequence[Site],
    samples: Samples,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Within the block, a gradient for :func:`fastprune.spp.follow_paths`.

    It is of the mean divergence of the masked model from the dense one: to second order the
    :class:`fastprune.spp.FisherLoss` of the model's own targets. Each call looks at one batch, the
    next of an order that is drawn anew for every round through the samples; one forward pass of
    the dense model, and one forward and backward of the masked one for every path.

    Args:
        model: its weights are frozen in the block; mode and flags are restored afterwards.
        sites: of the model.
        samples: to calibrate with.
        seed: of the order of batches.
        batch_size: samples per pass; by default as many as keep the device busy.
        dtype: autocast type of the passes.
    """
    device = device_of(model)
    divergence = Divergence(samples.task, seed, temperature=1.0)
    groups = samples.groups(batch_size, tokens=batch_tokens(model, dtype))
    batches = _endless(groups, seed)
    masks = [torch.ones(site.units, device=device, requires_grad=True) for site in sites]

    def gradient(paths: Tensor) -> Tensor:
        positions = next(batches)
        batch = to_device(samples.collate(positions), device)
        # Batches differ in size, and count by it.
        weight = len(groups) / len(samples)

        def predict(row: Tensor) -> tuple[Tensor, ...]:
            for mask, values in zip(masks, row.split([site.units for site in sites]), strict=True):
                mask.data.copy_(values)
            with autocast(device, dtype):
                return divergence.prediction(model(**model_inputs(batch)), batch)

        with torch.no_grad():
            dense = predict(torch.ones_like(paths[0]))
        rows = []
        for row in paths:
            with torch.enable_grad():
                loss = weight * divergence.between(predict(row), dense, batch).sum()
            found = torch.autograd.grad(loss, masks, allow_unused=True)
            filled = [
                torch.zeros_like(mask) if part is None else part
                for mask, part in zip(masks, found, strict=True)
            ]
            rows.append(torch.cat(filled))
        return torch.stack(rows).to(paths)

    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(cache_off(model))
        stack.enter_context(backward_attention(device, dtype))
        stack.enter_context(frozen(model))
        named = {site.name: mask for site, mask in zip(sites, masks, strict=True)}
        stack.enter_context(masked(model, named, sites))
        yield gradient


def _endless(groups: list[list[int]], seed: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(groups), generator=generator).tolist():
            yield groups[index]
