"""The comparison: every way with every seed, all budgets of each from one run."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastprune.budget import Budget, parse_budget
from fastprune.comparison.comparison import Comparison
from fastprune.comparison.files import check_out, read_trials, write_summaries, write_trials
from fastprune.comparison.trial import Cell, Trial
from fastprune.comparison.ways import DEFAULT_TUNES, Way, combine, default_methods, honoured
from fastprune.device import resolve_dtype
from fastprune.distributed import current_group
from fastprune.errors import FastpruneError
from fastprune.learned import Learned
from fastprune.pareto import DEFAULT_BUDGETS
from fastprune.pareto.files import held
from fastprune.pareto.sweep import resolve_cache
from fastprune.pipeline import BudgetLike, Prepared, prepare
from fastprune.report import versions
from fastprune.settings import Settings, check_options
from fastprune.structure.declaration import anatomy

Notify = Callable[[Trial], None]
"""Called with every trial as soon as it is there (and saved, where it is)."""


def compare(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    eval_data: Any,
    budgets: Iterable[BudgetLike] = DEFAULT_BUDGETS,
    *,
    methods: Iterable[str] | None = None,
    tunes: Iterable[str] = DEFAULT_TUNES,
    seeds: Iterable[int] = (0, 1, 2),
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tokenizer: Any = None,
    cache: bool | str | os.PathLike[str] = False,
    latency: bool = False,
    dtype: str | torch.dtype = "auto",
    **options: Any,
) -> Comparison:
    """Prune a model in several ways, and score what comes out.

    Args:
        model: as for :func:`fastprune.prune`.
        data: likewise.
        eval_data: held-out data to score on.
        budgets: one model each, for every way and every seed.
        methods: how units are chosen; by default all but ``"cofi"``, which trains: on all of the
            data and as ``training`` says.
        tunes: how those that stay are corrected. What a method does not go with is left out.
        seeds: of every random choice, the draw of the samples included.
        out: a directory for ``comparison.json`` (written after every trial), ``.csv``, ``.md`` and
            ``.png``. No model is kept.
        overwrite: replace an earlier comparison there.
        resume: keep its trials of the same model, data and settings, and go on with the others.
        tokenizer: as for :func:`fastprune.prune`.
        cache: keep and use statistics on disk, as for :func:`fastprune.sweep`. Off by default:
            otherwise the seconds of those who come second would not count calibration.
        latency: measure milliseconds before and after.
        dtype: as for :func:`fastprune.prune`.
        options: every other keyword of :func:`fastprune.prune` but ``method``, ``tune``, ``seed``.

    Raises:
        FastpruneError: anything the user can mend, in one line.
    """
    if isinstance(budgets, (str, Budget)):
        raise FastpruneError("a comparison takes a list of budgets, as ['macs=0.8', 'macs=0.5']")
    own = ("budgets", "cache", "method", "tune", "seed", "preset")
    check_options("compare", options, own)
    choices = {
        "budgets": tuple(map(parse_budget, budgets)),
        "latency": latency,
        "dtype": resolve_dtype(dtype),
        "cache": resolve_cache(cache),
        **options,
    }
    with current_group().agreed():
        return run_comparison(
            model,
            data,
            eval_data,
            choices,
            methods=default_methods() if methods is None else methods,
            tunes=tunes,
            seeds=seeds,
            out=None if out is None else Path(out),
            overwrite=overwrite,
            resume=resume,
            tokenizer=tokenizer,
        )


def run_comparison(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    eval_data: Any,
    choices: Mapping[str, Any],
    *,
    methods: Iterable[str],
    tunes: Iterable[str],
    seeds: Iterable[int],
    out: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tokenizer: Any = None,
    notify: Notify = lambda _: None,
) -> Comparison:
    """:func:`compare` for choices at hand.

    Args:
        choices: all settings that the ways have in common, but for the seed.
        notify: also told of trials that ``resume`` keeps.
    """
    if eval_data is None:
        raise FastpruneError(
            "a comparison needs held-out data to score on; give eval_data (--eval)"
        )
    if resume and out is None:
        raise FastpruneError("nothing can be resumed without a directory; give out (--out)")
    seeds = _once(seeds)
    every, left_out = combine(methods, tunes, choices)
    # Loading goes by what fits any model and task; what does not fit is left out afterwards.
    given = {**choices, "fisher": None}
    runs = [Way("random", "none").settings({**given, "seed": seed}) for seed in seeds]
    load = partial(prepare, model, data, eval_data=eval_data, tokenizer=tokenizer)
    group = current_group()  # the first process alone saves, so it alone looks at what is there
    with ExitStack() as stack:
        earlier: Sequence[Trial] = []
        if out is not None:
            sources = [s for s in (model, data, eval_data) if isinstance(s, (str, os.PathLike))]
            group.first(partial(check_out, out, replace=overwrite or resume, keep=sources))
            if group.rank == 0:
                stack.enter_context(held(out))
            if resume:
                earlier = group.first(partial(read_trials, out))
                _check_kept(earlier, every, seeds, out)
        found = Comparison((), {}, out)
        for run in runs:
            prepared = load(run)
            ways, unsuited = honoured(every, partial(_settings, prepared, choices))
            learned = Learned()
            for way in ways:
                settings = _settings(prepared, choices, way)
                # A method that trains draws other samples.
                started = load(settings) if settings.selection.trains else prepared
                started = replace(started, settings=settings, watch=started.watch.copy())
                trial = _trial(started, way, earlier, learned)
                found = replace(found, left_out=left_out | unsuited, trials=(*found.trials, trial))
                if out is not None:
                    group.first(partial(write_trials, found, out, _origin(prepared)))
                notify(trial)
        if out is not None:
            group.first(partial(write_summaries, found, out))
    return found


def _check_kept(
    earlier: Sequence[Trial], ways: Sequence[Way], seeds: Sequence[int], out: Path
) -> None:
    """Refuse to write a comparison without trials that took their time to get.

    Raises:
        FastpruneError: naming them.
    """
    lost = [trial for trial in earlier if trial.way not in ways or trial.seed not in seeds]
    if lost:
        names = "; ".join(dict.fromkeys(f"{trial.way}, seed {trial.seed}" for trial in lost))
        raise FastpruneError(
            f"{out} also holds {names}, which this comparison leaves out; ask for them again, or "
            "choose another --out"
        )


def _once(seeds: Iterable[int]) -> list[int]:
    try:
        seeds = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise FastpruneError(f"seeds must be whole numbers in a list, not {seeds!r}") from None
    if not seeds or len(set(seeds)) < len(seeds):
        raise FastpruneError("a comparison needs seeds, each of them once, such as 0, 1 and 2")
    return seeds


def _settings(loaded: Prepared, choices: Mapping[str, Any], way: Way) -> Settings:
    """Those of one way, on what has been loaded for all of them.

    Raises:
        FastpruneError: the way does not go with the model or the task.
    """
    base = loaded.settings
    settings = replace(
        way.settings({**choices, "seed": base.seed}), latency_table=base.latency_table
    ).for_layers(anatomy(loaded.model).stacked)
    settings.check_task(loaded.samples.task)
    return settings


def _trial(prepared: Prepared, way: Way, earlier: Sequence[Trial], learned: Learned) -> Trial:
    """A way on what has been loaded, unless there is such a trial already."""
    fingerprint = prepared.fingerprint()
    kept = _kept(earlier, fingerprint, prepared.settings)
    return kept or _try(way, prepared, fingerprint, learned)


def _try(way: Way, prepared: Prepared, fingerprint: str, learned: Learned) -> Trial:
    """Prune to all budgets; the models themselves are let go one after the other."""
    cells, dense = [], None
    for result in prepared.results(learned=learned):
        report = result.report.to_dict()
        dense = report["dense"]["score"]
        cells.append(Cell.of(report))
    assert prepared.metric is not None
    assert dense is not None
    device, seed = report["device"], prepared.settings.seed
    return Trial(way, seed, fingerprint, prepared.metric, dense, device, tuple(cells))


def _kept(earlier: Sequence[Trial], fingerprint: str, settings: Settings) -> Trial | None:
    """A trial of the same model, data, settings and budgets, where there is one."""
    budgets = [str(budget) for budget in settings.budgets]
    for trial in earlier:
        if trial.fingerprint == fingerprint and [c.budget for c in trial.cells] == budgets:
            return trial
    return None


def _origin(prepared: Prepared) -> dict[str, Any]:
    """Where and with what trials are made."""
    return {
        "samples": len(prepared.samples),
        "held_out": len(prepared.held_out or ()),
        "versions": versions(),
    }
