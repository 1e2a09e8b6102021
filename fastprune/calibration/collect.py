"""Run the calibration samples through a model and gather its Fisher statistics."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import get_args

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration.gradients import watch_mask_gradients
from fastprune.calibration.objective import Objective, Targets, make_objective
from fastprune.calibration.recorder import Recorder
from fastprune.calibration.statistics import FisherKind, Statistics
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import (
    autocast,
    backward_attention,
    batch_tokens,
    device_of,
    to_device,
)
from fastprune.errors import DataError, NumericalError
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites

# Gradient rows are folded into the Fisher blocks this many at a time: enough for an efficient
# matrix product, few enough that rows never pile up.
_ROWS_PER_UPDATE = 512
# Samples of a mini-batch in the original code: what fisher="batch" takes means over.
_MINI_BATCH = 32


def collect_statistics(
    model: nn.Module,
    samples: Samples,
    *,
    sites: Sequence[Site] | None = None,
    fisher: FisherKind = "sample",
    targets: Targets = "model",
    output_fisher: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    recorder: Recorder | None = None,
    progress: bool = False,
) -> Statistics:
    """Collect the block-diagonal Fisher information of a model's masks.

    One forward and one activation-gradient backward per batch; weights are neither changed nor
    given gradients, and dropout is off whatever mode the model is in.

    Args:
        model: a model :func:`fastprune.structure.find_sites` understands, on any device.
        samples: calibration samples (:func:`fastprune.load_samples`).
        sites: where to look; the model's own sites by default.
        fisher: ``"sample"`` sums outer products of per-sample gradients. ``"batch"`` takes the
            gradient of each mini-batch's mean loss as one row, in the order of the samples, as
            the original code does; it depends on ``batch_size``.
        targets: what losses are taken against: the ``"model"``'s own output distribution, which
            gives the true Fisher information without labels, or ``"labels"``.
        output_fisher: also sum the second moments of the gradients at the sites' outputs, which
            ``tune="scale"`` measures errors with: [outputs, outputs] per site.
        batch_size: samples per forward pass; by default as many as keep the device busy, and 32
            where ``fisher="batch"``.
        seed: of sampled targets.
        dtype: type of the forward and backward products (autocast); sums are float32.
        recorder: also records the forward passes, for tuning.
        progress: show a progress bar.

    Raises:
        DataError: labels asked for but absent.
        NumericalError: a loss or gradient that is not finite; names the batch.
    """
    if sites is None:
        sites = find_sites(model)
    objective = _objective(samples, targets, seed)
    device = device_of(model)
    accumulator = _Accumulator(sites, device, output_fisher=output_fisher)
    bucketed = fisher == "sample"
    if batch_size is None and not bucketed:
        batch_size = _MINI_BATCH
    groups = samples.groups(batch_size, tokens=batch_tokens(model, dtype), bucketed=bucketed)
    with (
        watch_mask_gradients(model, sites, accumulator.moments) as gradients,
        backward_attention(device, dtype),
        recorder or nullcontext(),
    ):
        for group in progress_bar("calibrate", groups, enabled=progress, unit="batch"):
            ids = [samples.ids[position] for position in group]
            batch = samples.collate(group)
            mask = batch.get("attention_mask")
            batch = to_device(batch, device)
            with torch.enable_grad():
                with autocast(device, dtype):
                    gradients.begin(len(ids), batch.get("attention_mask"))
                    outputs = model(**model_inputs(batch))
                loss = objective(outputs, batch, torch.tensor(ids))
                if recorder is not None:
                    recorder.keep(mask)
                # The sum, not the mean: a sample's gradient must not depend on its batch.
                loss.sum().backward()
            rows = gradients.take()
            accumulator.add(rows if bucketed else rows.mean(dim=0, keepdim=True), loss, ids)
    accumulator.finish()
    return Statistics(
        site_names=tuple(site.name for site in sites),
        sizes=tuple(accumulator.sizes),
        blocks=accumulator.blocks,
        rows=accumulator.rows,
        samples=len(samples),
        tokens=sum(samples.lengths),
        fisher=fisher,
        targets=targets,
        output_fisher=accumulator.moments,
    )


class _Accumulator:
    """Sums of outer products of gradient rows, and a watch over their being finite."""

    def __init__(self, sites: Sequence[Site], device: torch.device, *, output_fisher: bool) -> None:
        self.sizes = [site.units for site in sites]
        self.blocks = torch.zeros(sum(size * size for size in self.sizes), device=device)
        outputs = sites[0].outputs
        self.moments = (
            torch.zeros(len(sites), outputs, outputs, device=device) if output_fisher else None
        )
        self.rows = 0
        self._pending: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._ids: list[list[int]] = []

    def add(self, rows: Tensor, loss: Tensor, ids: list[int]) -> None:
        """Add gradient rows [rows, units of all sites] of a batch with losses [samples]."""
        self._finite.append(torch.isfinite(rows).all() & torch.isfinite(loss).all())
        self._ids.append(ids)
        if len(self._ids) == 1:
            # What is wrong with every batch shows at once. The others are looked at in the end:
            # asking after each would make a GPU wait.
            self._check()
        self._pending.append(rows)
        self.rows += len(rows)
        if sum(map(len, self._pending)) >= _ROWS_PER_UPDATE:
            self._fold()

    def finish(self) -> None:
        """Fold in what is left.

        Raises:
            NumericalError: something was not finite.
        """
        self._check()
        self._fold()

    def _fold(self) -> None:
        if self._pending:
            ops.fisher_outer(torch.cat(self._pending), self.sizes, out=self.blocks)
            self._pending.clear()

    def _check(self) -> None:
        bad = (~torch.stack(self._finite)).nonzero().flatten().tolist()
        if bad:
            ids = self._ids[bad[0]]
            raise NumericalError(
                f"loss or gradient of calibration batch {bad[0]} is not finite (rows {ids[:8]}"
                f"{'…' if len(ids) > 8 else ''}): check those rows, the labels and the weights,"
                " or use --dtype float32"
            )


def _objective(samples: Samples, targets: Targets, seed: int) -> Objective:
    if targets == "labels" and not _has_labels(samples):
        raise DataError(
            "the calibration data has no labels; name the label column, or leave targets at 'model'"
        )
    if targets not in get_args(Targets):
        raise DataError(f"unknown targets {targets!r}; use {' or '.join(get_args(Targets))}")
    return make_objective(samples.task, labelled=targets == "labels", seed=seed)


def _has_labels(samples: Samples) -> bool:
    # The labels of a language model are the text itself.
    return samples.labels is not None or samples.task == "causal-lm"
