"""Run the calibration samples through a model and gather its Fisher statistics."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import get_args

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration.gradients import watch_gradients
from fastprune.calibration.moments import Moments
from fastprune.calibration.objective import Objective, Targets, make_objective
from fastprune.calibration.recorder import Recorder
from fastprune.calibration.statistics import FisherKind, Statistics
from fastprune.data import Samples
from fastprune.data.fitting import check_labels
from fastprune.data.samples import model_inputs
from fastprune.device import (
    autocast,
    backward_attention,
    batch_tokens,
    device_of,
    to_device,
)
from fastprune.distributed import ALONE, Group
from fastprune.errors import DataError, NumericalError
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites

# Gradient rows are folded into the Fisher blocks this many at a time: enough for an efficient
# matrix product, few enough that rows never pile up.
_ROWS_PER_UPDATE = 512
MINI_BATCH = 32
"""Samples of a mini-batch in the original code: what ``fisher="batch"`` takes means over."""


def collect_statistics(
    model: nn.Module,
    samples: Samples,
    *,
    sites: Sequence[Site] | None = None,
    fisher: FisherKind = "sample",
    targets: Targets = "model",
    mask_fisher: bool = True,
    mask_gradients: bool = True,
    output_fisher: bool = True,
    input_moments: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    recorder: Recorder | None = None,
    group: Group = ALONE,
    progress: bool = False,
) -> Statistics:
    """Collect what the methods of selection and tuning need to know about the data.

    By default all of it: the statistics then serve any method. One forward and one
    activation-gradient backward per batch; weights are neither changed nor given gradients, and
    dropout is off whatever mode the model is in.

    Args:
        model: a model :func:`fastprune.structure.find_sites` understands, on any device.
        samples: calibration samples (:func:`fastprune.load_samples`).
        sites: where to look; the model's own sites by default.
        fisher: ``"sample"`` sums outer products of per-sample gradients. ``"batch"`` takes the
            gradient of each mini-batch's mean loss as one row, in the order of the samples, as
            the original code does; it depends on ``batch_size``.
        targets: what losses are taken against: the ``"model"``'s own output distribution, which
            gives the true Fisher information without labels, or ``"labels"``.
        mask_fisher: whether to sum the Fisher blocks of the masks, for ``method="fisher"``.
        mask_gradients: whether to keep the gradients of the masks, a row each sample, for
            ``method="spp"``.
        output_fisher: whether to sum the second moments of the gradients at the sites' outputs,
            for ``method="obs"`` and ``tune="scale"``.
        input_moments: whether to sum the second moments of the sites' inputs, for
            ``method="obs"``.
        batch_size: samples per forward pass; by default as many as keep the device busy, and 32
            where ``fisher="batch"``.
        seed: of sampled targets.
        dtype: type of the forward and backward products (autocast); sums are float32.
        recorder: also records the forward passes, for tuning.
        group: processes that each give their own samples; sums are over all of them.
        progress: show a progress bar.

    Raises:
        DataError: labels asked for but absent, or ones that the model cannot predict.
        NumericalError: a loss or gradient that is not finite; names the batch. No gradient at all.
    """
    if sites is None:
        sites = find_sites(model)
    _check_arguments(model, samples, sites, fisher, moments=output_fisher or input_moments)
    if targets == "labels":
        check_labels(samples, getattr(model, "config", None))
    objective = _objective(samples, targets, seed)
    device = device_of(model)
    moments = Moments(sites, device, output_fisher=output_fisher, inputs=input_moments)
    masks = mask_fisher or mask_gradients
    accumulator = _Accumulator(sites, device, blocks=mask_fisher, rows=mask_gradients)
    bucketed = fisher == "sample"
    if batch_size is None and not bucketed:
        batch_size = MINI_BATCH
    batches = samples.groups(batch_size, tokens=batch_tokens(model, dtype), bucketed=bucketed)
    with (
        watch_gradients(model, sites, moments, masks=masks) as gradients,
        backward_attention(device, dtype),
        recorder or nullcontext(),
    ):
        for positions in progress_bar("calibrate", batches, enabled=progress, unit="batch"):
            ids = [samples.ids[position] for position in positions]
            batch = samples.collate(positions)
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
            rows = gradients.take() if masks else None
            if rows is not None and not bucketed:
                rows = rows.mean(dim=0, keepdim=True)
            accumulator.add(rows, loss, ids)
    accumulator.finish()
    statistics = Statistics(
        site_names=tuple(site.name for site in sites),
        sizes=tuple(accumulator.sizes),
        blocks=accumulator.blocks,
        rows=accumulator.count,
        samples=len(samples),
        tokens=sum(samples.lengths),
        fisher=fisher,
        targets=targets,
        output_fisher=moments.output_fisher,
        input_moments=moments.inputs,
        mask_gradients=accumulator.rows,
    ).summed(group)
    moments.check_finite()
    _check_gradients(statistics)
    return statistics


def _check_arguments(
    model: nn.Module,
    samples: Samples,
    sites: Sequence[Site],
    fisher: FisherKind,
    *,
    moments: bool,
) -> None:
    if not isinstance(samples, Samples):
        raise DataError(
            f"samples must be Samples, not {type(samples).__name__}: see fastprune.load_samples"
        )
    if fisher not in get_args(FisherKind):
        raise DataError(f"unknown fisher {fisher!r}; use {' or '.join(get_args(FisherKind))}")
    if not sites:
        raise DataError("the model has no heads or filters left to collect statistics of")
    if moments and any(site.gates for site in sites):
        raise DataError(
            "dimensions inside heads have gradients of masks, but no moments; collect with "
            "output_fisher=False and input_moments=False"
        )
    if not sum(samples.lengths) and not samples.of_images:
        raise DataError("the calibration samples hold no tokens; check the data")
    if any(parameter.dtype == torch.float64 for parameter in model.parameters()):
        raise DataError("statistics are collected in float32; convert the model: model.float()")


def _check_gradients(statistics: Statistics) -> None:
    of_gradients = [statistics.blocks, statistics.output_fisher, statistics.mask_gradients]
    found = [values for values in of_gradients if values is not None]
    if found and not any(values.any() for values in found):
        raise NumericalError(
            "the loss depends on no layer (all gradients are zero): check the weights of the model "
            "and of its head, and that samples are long enough to predict anything from; or use "
            "method magnitude"
        )


class _Accumulator:
    """Gradient rows, as they are or as sums of outer products, and a watch over their being finite.

    Attributes:
        sizes: units per site.
        blocks: the sums, flat, one site after the other; None where not asked for.
        count: how many rows there were.
    """

    def __init__(
        self, sites: Sequence[Site], device: torch.device, *, blocks: bool, rows: bool
    ) -> None:
        self.sizes = [site.units for site in sites]
        size = sum(n * n for n in self.sizes)
        self.blocks = torch.zeros(size, device=device) if blocks else None
        self.count = 0
        self._kept: list[Tensor] | None = [] if rows else None
        self._pending: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._ids: list[list[int]] = []

    @property
    def rows(self) -> Tensor | None:
        """[count, units of all sites], where they were to be kept."""
        return None if self._kept is None else torch.cat(self._kept)

    def add(self, rows: Tensor | None, loss: Tensor, ids: list[int]) -> None:
        """Add gradient rows [rows, units of all sites] of a batch with losses [samples]."""
        finite = torch.isfinite(loss).all()
        self._finite.append(finite if rows is None else finite & torch.isfinite(rows).all())
        self._ids.append(ids)
        if len(self._ids) == 1:
            # What is wrong with every batch shows at once. The others are looked at in the end:
            # asking after each would make a GPU wait.
            self._check()
        if rows is None:
            return
        self.count += len(rows)
        if self._kept is not None:
            self._kept.append(rows)
        if self.blocks is not None:
            self._pending.append(rows)
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
