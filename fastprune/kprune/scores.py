"""What units know: of the predictions, and of the representation their sublayer hands on.

Park et al. 2024, section 3.2. One forward pass and one backward pass through the sites that are
looked at; what lies before them needs no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.gradients import watch_gradients
from fastprune.calibration.objective import Batch
from fastprune.calibration.recorder import Recorder
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, backward_attention, cache_off, device_of, to_device
from fastprune.distributed import ALONE, Group
from fastprune.errors import NumericalError
from fastprune.structure import Site, get_projection

MINI_BATCH = 32
"""Samples, in their own order, whose mean divergence is differentiated as one."""

Loss = Callable[[int, Any, Batch, list[int]], Tensor]
"""(number of the batch, model outputs, batch, positions of its samples) -> losses [samples]."""


@dataclass(frozen=True)
class Scores:
    """Both kinds of knowledge, of the units of some sites side by side.

    Both are found for every input column of the output projections; a head knows what its columns
    know on average.

    Attributes:
        predictive: float64 [units] on the CPU; half the sum of squares, over mini-batches or
            samples and divided by the number of samples, of the gradient of the mean loss with
            respect to a column's mask.
        representative: float64 [units] on the CPU; the mean over tokens and outputs of the squared
            contribution of a column to the sublayer's output.
    """

    predictive: Tensor
    representative: Tensor


def score_sites(
    model: nn.Module,
    sites: Sequence[Site],
    samples: Samples,
    groups: Sequence[list[int]],
    loss: Loss,
    *,
    by_sample: bool = False,
    dtype: torch.dtype = torch.float32,
    recorder: Recorder | None = None,
    group: Group = ALONE,
) -> Scores:
    """Run all samples through a model and score the units of some of its sites.

    Args:
        model: of any device and mode; left as it was.
        sites: sites of the model.
        samples: calibration samples. Padding contributes nothing.
        groups: positions of the samples of each batch; scores do not depend on them.
        loss: what the masks' gradients are of.
        by_sample: take the mean square over samples instead of over means of mini-batches.
        dtype: autocast type of the passes.
        recorder: also records the forward passes.
        group: processes that each give their own samples, in whole mini-batches.

    Raises:
        NumericalError: a score that is not finite.
    """
    device = device_of(model)
    columns = [replace(site, units=site.columns, group=1) for site in sites]
    batches = 1 if by_sample else -(-len(samples) // MINI_BATCH)
    width = sum(site.columns for site in sites)
    sums = torch.zeros(batches, width, dtype=torch.float64, device=device)
    powers = _Powers(sites, device)
    with ExitStack() as stack:
        gradients = stack.enter_context(watch_gradients(model, columns))
        stack.enter_context(cache_off(model))
        stack.enter_context(backward_attention(device, dtype))
        stack.enter_context(torch.enable_grad())
        for index, site in enumerate(sites):
            projection = model.get_submodule(site.name)
            stack.callback(projection.register_forward_pre_hook(powers.hook(index)).remove)
        stack.enter_context(recorder or nullcontext())
        for number, positions in enumerate(groups):
            batch = samples.collate(positions)
            mask = batch.get("attention_mask")
            batch = to_device(batch, device)
            gradients.begin(len(positions), batch.get("attention_mask"))
            powers.begin(mask)
            with autocast(device, dtype):
                outputs = model(**model_inputs(batch))
            losses = loss(number, outputs, batch, positions)
            if recorder is not None:
                recorder.keep(mask)
            losses.sum().backward()
            rows = gradients.take().double()
            if by_sample:
                sums += rows.square().sum(0)
            else:
                # As a product: on a GPU, index_add_ sums in no fixed order.
                of = nn.functional.one_hot(torch.tensor(positions) // MINI_BATCH, batches)
                sums += of.T.to(rows) @ rows
    if by_sample:
        squares = sums[0]
    else:
        sizes = torch.bincount(torch.arange(len(samples)) // MINI_BATCH).to(device)
        squares = (sums / sizes[:, None]).square().sum(0)
    count = torch.tensor(len(samples))
    group.sum_(count, squares, *powers.sums, powers.tokens)
    predictive = squares / (2 * int(count))
    scores = Scores(
        _by_unit(predictive, sites).cpu(), _by_unit(powers.contributions(model), sites).cpu()
    )
    _check_finite(scores, sites)
    return scores


class _Powers:
    """Mean squares of the inputs of projections, column by column.

    Attributes:
        sums: per site, float64 [columns], of the squares.
        tokens: int64 [sites] on the CPU, how many were seen.
    """

    def __init__(self, sites: Sequence[Site], device: torch.device) -> None:
        self._sites = sites
        self.sums = [
            torch.zeros(site.columns, dtype=torch.float64, device=device) for site in sites
        ]
        self.tokens = torch.zeros(len(sites), dtype=torch.int64)
        self._device = device

    def begin(self, mask: Tensor | None) -> None:
        """Announce a batch: its attention mask [samples, tokens], on the CPU."""
        self._rows = None
        if mask is not None and not mask.all():
            self._rows = mask.flatten().nonzero().flatten().to(self._device)
        self._padded = None if mask is None else mask.numel()

    def hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """A forward pre-hook for the output projection of site ``index``."""

        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach().flatten(0, -2)
            if self._rows is not None and len(x) == self._padded:
                x = x.index_select(0, self._rows)
            norms = torch.linalg.vector_norm(x, dim=0, dtype=torch.float32)
            self.sums[index] += norms.double().square()
            self.tokens[index] += len(x)

        return see

    def contributions(self, model: nn.Module) -> Tensor:
        """Representative knowledge of every column: float64 [columns of all sites]."""
        found = []
        for site, sums, tokens in zip(self._sites, self.sums, self.tokens.tolist(), strict=True):
            weight, _ = get_projection(model, site)
            found.append(sums / max(tokens, 1) * weight.double().square().mean(0))
        return torch.cat(found)


def _by_unit(values: Tensor, sites: Sequence[Site]) -> Tensor:
    """The mean over each unit's columns: [columns of all sites] to [units of all sites]."""
    parts = values.split([site.columns for site in sites])
    means = [
        part.view(site.units, site.group).mean(1) for part, site in zip(parts, sites, strict=True)
    ]
    return torch.cat(means)


def _check_finite(scores: Scores, sites: Sequence[Site]) -> None:
    finite = torch.isfinite(scores.predictive) & torch.isfinite(scores.representative)
    for site, part in zip(sites, finite.split([site.units for site in sites]), strict=True):
        if not part.all():
            raise NumericalError(
                f"{site.name}: activations or gradients of the calibration samples are not finite; "
                "check those samples and the weights, or use --dtype float32"
            )
