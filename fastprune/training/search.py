"""SPP's search: masks follow the loss of labelled training data, for some epochs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from fastprune.atomic import check_file
from fastprune.calibration import collect_statistics
from fastprune.checks import check_known
from fastprune.data import Samples
from fastprune.device import (
    cache_off,
    device_of,
    evaluation_mode,
    frozen,
    full_precision,
    resolve_dtype,
)
from fastprune.fingerprint import fingerprint_model, fingerprint_samples
from fastprune.inputs import Reader, check_prunable, load_model, load_tokenizer
from fastprune.report import versions
from fastprune.spp.inclusion import Inclusion, MaskedLoss
from fastprune.spp.order import Start
from fastprune.spp.quadratic import FisherLoss
from fastprune.spp.saved import SearchedPath
from fastprune.structure import GRANULARITIES, Site
from fastprune.training.checkpoints import checkpoints_in
from fastprune.training.choices import Training
from fastprune.training.loop import (
    check_trainable,
    config_kept,
    make_trainer,
    run,
    surroundings_kept,
)

_CURVATURE_SAMPLES = 512
"""That tell how the loss bends, and so how long steps may be."""
_DIVERGED = (
    "the search does not stay finite: check the training data for extreme activations, or use "
    "--dtype float32"
)


def search_path(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    granularity: str = "heads",
    epochs: float = 1.0,
    batch_size: int = 32,
    accumulate: int = 1,
    save_every: int | None = 500,
    samples: int | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    tokenizer: Any = None,
    max_length: int | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    progress: bool = False,
) -> SearchedPath:
    """Find the order in which units enter a solution path that follows training data.

    Masks of all units follow the task's loss, batch after batch, and are drawn to gates that open
    one by one (:mod:`fastprune.spp.path`); weights stay as they are, half types in float32 while
    masks follow. One search serves any number of budgets: ``prune(..., method="spp", path=out)``,
    best followed by :func:`fastprune.finetune`.

    Args:
        model: as for :func:`fastprune.prune`; it is not changed.
        data: labelled training data.
        out: the file to write. Checkpoints lie beside it while the search runs, in
            ``<out>.checkpoints``.
        granularity: as for :func:`fastprune.prune`.
        epochs: rounds through the data.
        batch_size: samples of a step.
        accumulate: batches whose gradients make one step.
        save_every: steps between checkpoints; None = at the end of each epoch.
        samples: how many to draw, by ``seed``; by default all there are.
        seed: of the order of batches.
        resume: go on from the last checkpoint of an interrupted search.
        overwrite: replace an existing file.
        tokenizer: as for :func:`fastprune.prune`, like the rest.

    Raises:
        FastpruneError: anything the user can mend, in one line.
    """
    training = Training(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        save_every=save_every,
        seed=seed,
        dtype=resolve_dtype(dtype),
        progress=progress,
    )
    check_known("granularity", granularity, GRANULARITIES)
    target = check_file(out, overwrite, keep=(model, data))
    checkpoints = target.with_name(f"{target.name}.checkpoints")
    dense = load_model(model, device)
    if tokenizer is None and not isinstance(model, nn.Module):
        tokenizer = load_tokenizer(model, dense)
    check_prunable(dense, granularity=granularity)
    reader = Reader(dense, tokenizer, max_length, text_columns, label_column, progress)
    learned_from = reader.training(data, samples, seed)
    check_trainable(dense, learned_from)
    sites = GRANULARITIES[granularity](dense)
    of_what = {
        "model": fingerprint_model(dense),
        "samples": fingerprint_samples(learned_from),
        "granularity": granularity,
        "training": {**asdict(training), "progress": None},
    }
    with ExitStack() as stack:
        last = stack.enter_context(checkpoints_in(checkpoints, of_what, resume=resume))
        for state in (full_precision, evaluation_mode, cache_off, frozen, config_kept):
            stack.enter_context(state(dense))
        stack.enter_context(surroundings_kept(device_of(dense)))
        masks, steps = _prepare(dense, sites, learned_from, training)
        trainer = make_trainer(masks, learned_from, training, checkpoints, optimizer=steps)
        run(trainer, checkpoints, last, diverged=_DIVERGED)
    found = _found(steps, dense, sites, granularity, training, len(learned_from))
    found.save(target)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return found


def _prepare(
    model: nn.Module, sites: list[Site], samples: Samples, training: Training
) -> tuple[MaskedLoss, Inclusion]:
    """What is trained, and what trains it."""
    few = samples.draw(min(len(samples), _CURVATURE_SAMPLES), training.seed)
    statistics = collect_statistics(
        model,
        few,
        sites=sites,
        targets="labels",
        mask_fisher=False,
        mask_gradients=True,
        output_fisher=False,
        input_moments=False,
        seed=training.seed,
        dtype=training.dtype,
        progress=training.progress,
    )
    fisher = FisherLoss(statistics.gradient_rows())
    start = Start.of(fisher, sites)
    masks = MaskedLoss(model, sites, start.masks)
    return masks, Inclusion(masks.masks, start, fisher.curvature)


def _found(
    steps: Inclusion,
    model: nn.Module,
    sites: Sequence[Site],
    granularity: str,
    training: Training,
    samples: int,
) -> SearchedPath:
    path = steps.path()
    order = path.order(0)
    times = path.crossing[0].cpu()[order].tolist()
    return SearchedPath(
        model=fingerprint_model(model),
        granularity=granularity,
        sites=tuple(site.name for site in sites),
        units=tuple(site.units for site in sites),
        order=tuple(order.tolist()),
        crossing=tuple(None if time == float("inf") else time for time in times),
        origin={
            "steps": path.steps,
            "samples": samples,
            "epochs": training.epochs,
            "batch_size": training.batch_size * training.accumulate,
            "seed": training.seed,
            "versions": versions(),
        },
    )
