"""The sweep: one calibration, every budget."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastprune.atomic import check_target
from fastprune.budget import Budget, parse_budget
from fastprune.calibration import Statistics
from fastprune.calibration.cache import cache_directory
from fastprune.compaction.directories import budget_directory
from fastprune.device import resolve_dtype
from fastprune.distributed import current_group
from fastprune.errors import CheckpointError, FastpruneError
from fastprune.pareto.conditions import check_conditions
from fastprune.pareto.curve import Sweep
from fastprune.pareto.files import check_out, finished, held, write_curve
from fastprune.pareto.point import Point
from fastprune.pipeline import BudgetLike, PruneResult, prepare
from fastprune.settings import Settings, check_options
from fastprune.training.checkpoints import clear_budgets

DEFAULT_BUDGETS = ("macs=0.8", "macs=0.7", "macs=0.6", "macs=0.5", "macs=0.4", "macs=0.3")
CHECKPOINTS = "checkpoints"
"""Beside the budgets' directories, where those of a method that trains lie until it is done."""
Notify = Callable[[Point], None]
"""Called with every point as soon as it is there (and saved, where it is)."""


def sweep(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    budgets: Iterable[BudgetLike] = DEFAULT_BUDGETS,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    eval_data: Any = None,
    tokenizer: Any = None,
    statistics: Statistics | None = None,
    cache: bool | str | os.PathLike[str] = True,
    dtype: str | torch.dtype = "auto",
    **options: Any,
) -> Sweep:
    """Prune a model to many budgets from one calibration.

    The data are calibrated on once, all budgets are chosen together, and their models are tuned
    side by side as far as memory allows, against one pass of the dense model.

    Args:
        model: as for :func:`fastprune.prune`.
        data: likewise.
        budgets: one model each.
        out: a directory to save to: one subdirectory per budget, such as ``macs-0.5``, as they
            are finished, and ``curve.csv``, ``curve.json`` and ``curve.png`` in the end. Without
            it, the models stay in memory.
        overwrite: replace earlier models there.
        resume: keep those that a sweep of the same model, data and settings has finished, and go
            on with the others; the curve then holds all of them. ``method="cofi"`` also goes on
            with the training that was interrupted, from its last checkpoint.
        eval_data: as for :func:`fastprune.prune`; without it there are costs but no scores.
        tokenizer: likewise.
        statistics: likewise.
        cache: keep what calibration collects on disk and use it again for the same model, data,
            seed and settings: ``True`` for the user's cache directory (or ``$FASTPRUNE_CACHE``),
            or another one. The oldest go when it exceeds 10 GiB.
        dtype: as for :func:`fastprune.prune`.
        options: every other keyword of :func:`fastprune.prune`.

    Raises:
        FastpruneError: anything the user can mend, in one line.
    """
    if isinstance(budgets, (str, Budget)):
        raise FastpruneError("a sweep takes a list of budgets, such as ['macs=0.8', 'macs=0.5']")
    check_options("sweep", options, own=("budgets", "cache"))
    settings = Settings(
        budgets=tuple(map(parse_budget, budgets)),
        dtype=resolve_dtype(dtype),
        cache=resolve_cache(cache),
        **options,
    )
    with current_group().agreed():
        return run_sweep(
            model,
            data,
            settings,
            out=None if out is None else Path(out),
            overwrite=overwrite,
            resume=resume,
            eval_data=eval_data,
            tokenizer=tokenizer,
            statistics=statistics,
        )


def resolve_cache(cache: bool | str | os.PathLike[str]) -> Path | None:
    """The cache directory that is meant; None = no cache."""
    if isinstance(cache, bool):
        return cache_directory() if cache else None
    return Path(cache)


def run_sweep(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    settings: Settings,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    eval_data: Any = None,
    tokenizer: Any = None,
    statistics: Statistics | None = None,
    condition: str | None = None,
    notify: Notify = lambda _: None,
) -> Sweep:
    """:func:`sweep` for settings at hand.

    Args:
        condition: what :meth:`Sweep.pick` will be asked for; refused at once where it cannot be.
        notify: also told of points that ``resume`` keeps.
    """
    start = time.perf_counter()
    group = current_group()  # the first process alone saves, so it alone looks at what is there
    if resume and out is None:
        raise FastpruneError("nothing can be resumed without a directory; give out (--out)")
    with ExitStack() as stack:
        if out is not None:
            sources = [s for s in (model, data, eval_data) if isinstance(s, (str, os.PathLike))]
            group.first(partial(_check_targets, out, settings, overwrite or resume, sources))
            if group.rank == 0:
                stack.enter_context(held(out))
        checkpoints = out / CHECKPOINTS if out is not None and settings.selection.trains else None
        if checkpoints is not None:
            settings = settings.keeping(checkpoints, resume=resume)
        prepared = prepare(model, data, settings, eval_data=eval_data, tokenizer=tokenizer)
        if condition is not None:
            check_conditions(condition, prepared.metric, timed=settings.latency)
        fingerprint = "" if out is None else prepared.fingerprint(statistics)
        points = {}
        if resume and out is not None:
            found = group.first(lambda: list(finished(out, fingerprint)))
            points = {point.budget: point for point in found}
            for point in points.values():
                notify(point)
        left = [budget for budget in settings.budgets if str(budget) not in points]
        if out is not None and not overwrite:
            group.first(partial(_refuse_foreign, out, left))
        if checkpoints is not None:  # those that nobody goes on from
            over = [b for b in settings.budgets if overwrite or b not in left]
            group.first(partial(clear_budgets, checkpoints, over))
        if left:
            prepared = replace(prepared, settings=replace(prepared.settings, budgets=tuple(left)))
            for budget, result in zip(left, prepared.results(statistics), strict=True):
                point = _point(result, fingerprint, out, budget)
                points[point.budget] = point
                notify(point)
                if checkpoints is not None:
                    group.first(partial(clear_budgets, checkpoints, [budget]))
        ordered = sorted(points.values(), key=lambda p: (p.macs, p.params), reverse=True)
        seconds = group.first(lambda: time.perf_counter() - start)
        swept = Sweep(tuple(ordered), out, seconds)
        if out is not None:
            group.first(partial(write_curve, swept, out))
    return swept


def _check_targets(
    out: Path, settings: Settings, replaced: bool, sources: Sequence[str | os.PathLike[str]]
) -> None:
    check_out(out, replace=replaced, keep=sources)
    for budget in settings.budgets:
        # What resuming may find there is looked at later.
        check_target(budget_directory(out, budget), replaced, keep=sources)


def _refuse_foreign(out: Path, budgets: Sequence[Budget]) -> None:
    for budget in budgets:
        directory = budget_directory(out, budget)
        if directory.exists():
            raise CheckpointError(
                f"{directory} holds a damaged result, or one of another model, data or settings; "
                "choose another directory, or replace it (--overwrite, or in Python overwrite=True)"
            )


def _point(result: PruneResult, fingerprint: str, out: Path | None, budget: Budget) -> Point:
    result.report.fingerprint = fingerprint
    if out is None:
        return Point(result.report.to_dict(), model=result.model)
    directory = budget_directory(out, budget)
    # A directory that may not be replaced has been refused before.
    result.save_pretrained(directory, overwrite=True)
    return Point(result.report.to_dict(), directory)
