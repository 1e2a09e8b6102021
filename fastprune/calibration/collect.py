"""Run the calibration samples through a model and gather its Fisher statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration.gradients import MaskGradients, watch_mask_gradients
from fastprune.calibration.objective import Objective, Targets, make_objective
from fastprune.calibration.statistics import FisherKind, Statistics
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, device_of, to_device
from fastprune.errors import DataError, NumericalError
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites

# Gradient rows are folded into the Fisher blocks this many at a time: enough for an efficient
# matrix product, few enough that rows never pile up.
_ROWS_PER_UPDATE = 256


def collect_statistics(
    model: nn.Module,
    samples: Samples,
    *,
    sites: Sequence[Site] | None = None,
    fisher: FisherKind = "sample",
    targets: Targets = "model",
    output_fisher: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
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
        batch_size: samples per forward pass.
        seed: of sampled targets.
        dtype: type of the forward and backward products (autocast); sums are float32.
        progress: show a progress bar.

    Raises:
        DataError: labels asked for but absent.
        NumericalError: a loss or gradient that is not finite; names the batch.
    """
    if sites is None:
        sites = find_sites(model)
    objective = _objective(samples, targets, seed)
    device = device_of(model)
    sizes = [site.units for site in sites]
    blocks = torch.zeros(sum(size * size for size in sizes), device=device)
    moments = None
    if output_fisher:
        moments = torch.zeros(len(sites), sites[0].outputs, sites[0].outputs, device=device)
    pending: list[Tensor] = []
    rows = 0

    def update() -> None:
        if not pending:
            return
        ops.fisher_outer(torch.cat(pending), sizes, out=blocks)
        pending.clear()

    batches = progress_bar(
        "calibrate",
        samples.batches(batch_size, bucketed=fisher == "sample"),
        total=math.ceil(len(samples) / batch_size),
        enabled=progress,
        unit="batch",
    )
    with watch_mask_gradients(model, sites, moments) as gradients:
        for number, batch in enumerate(batches):
            index = batch.pop("sample_index")
            ids = [samples.ids[i] for i in index.tolist()]
            row = _mask_gradients(
                model, to_device(batch, device), torch.tensor(ids), gradients, objective, dtype
            )
            if not torch.isfinite(row).all():
                raise NumericalError(
                    f"loss or gradient of calibration batch {number} is not finite (rows {ids[:8]}"
                    f"{'…' if len(ids) > 8 else ''}): check those rows, the labels and the weights,"
                    " or use --dtype float32"
                )
            if fisher == "batch":
                row = row.mean(dim=0, keepdim=True)
            pending.append(row)
            rows += len(row)
            if sum(map(len, pending)) >= _ROWS_PER_UPDATE:
                update()
    update()
    return Statistics(
        site_names=tuple(site.name for site in sites),
        sizes=tuple(sizes),
        blocks=blocks,
        rows=rows,
        samples=len(samples),
        tokens=sum(samples.lengths),
        fisher=fisher,
        targets=targets,
        output_fisher=moments,
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


def _mask_gradients(
    model: nn.Module,
    batch: dict[str, Tensor],
    ids: Tensor,
    gradients: MaskGradients,
    objective: Objective,
    dtype: torch.dtype,
) -> Tensor:
    valid = batch.get("attention_mask")
    gradients.begin(len(ids), None if valid is None else valid.bool())
    with torch.enable_grad():
        with autocast(device_of(model), dtype):
            outputs = model(**model_inputs(batch))
        loss = objective(outputs, batch, ids)
        # The sum, not the mean: each sample's gradient must not depend on the batch it is in.
        loss.sum().backward()
    row = gradients.take()
    return torch.where(torch.isfinite(loss).view(-1, 1), row, torch.nan)
