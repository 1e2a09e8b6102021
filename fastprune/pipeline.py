"""The whole way, from a model and samples to smaller models. The only module that knows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, BudgetKind, Prices, parse_budget, price_sites
from fastprune.calibration import Statistics, collect_statistics
from fastprune.calibration.objective import Targets
from fastprune.calibration.recorder import Recorder, record
from fastprune.calibration.statistics import FisherKind
from fastprune.calibration.trace import Trace, depth_within
from fastprune.compaction import compact, save_pretrained, uniform_kinds
from fastprune.data import Samples
from fastprune.device import (
    batch_tokens,
    device_of,
    evaluation_mode,
    resolve_dtype,
    trace_bytes,
)
from fastprune.evaluation.latency import measure_latency
from fastprune.evaluation.scorer import Scorer
from fastprune.inputs import (
    Reader,
    check_prunable,
    computable,
    load_model,
    load_tokenizer,
    restore_dtypes,
)
from fastprune.parity import RELEASED_TUNER, staged_teacher_budget
from fastprune.report import Latency, Report, Score, Size, Stopwatch
from fastprune.selection import rearrange_masks, select_masks
from fastprune.selection.methods import unit_importance
from fastprune.selection.packed import split_packed
from fastprune.settings import Settings
from fastprune.structure import find_sites, layer_units
from fastprune.structure.declaration import anatomy
from fastprune.tuning import TUNERS, SiteTuning
from fastprune.tuning import tune as tune_model

_LATENCY_BATCH = 32
"""Samples that latency is measured with, where no batch size is given."""

BudgetLike = Budget | str | float | Mapping[str, object]


@dataclass
class PruneResult:
    """A pruned model and how it came about.

    Attributes:
        model: physically smaller and tuned; dtype, device and mode as the model handed in.
        masks: per site of the original model, float32 [units], 1 = kept.
        report: what was promised and what was measured.
        tokenizer: saved beside the model, where there is one.
        uniform: whether it is saved with a stock config that loads without fastprune.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    report: Report
    tokenizer: Any = field(default=None, repr=False)
    uniform: bool = False

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, overwrite: bool = False
    ) -> None:
        """Save model, tokenizer and report; see :func:`fastprune.save_pretrained`."""
        save_pretrained(
            self.model,  # type: ignore[arg-type]
            directory,
            self.tokenizer,
            report=self.report.to_dict(),
            overwrite=overwrite,
            uniform=self.uniform,
        )


def prune(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    budget: BudgetLike = "macs=0.5",
    *,
    method: str = "fisher",
    tune: str | None = None,
    teacher: str = "dense",
    preset: str | None = None,
    eval_data: Any = None,
    metric: str | None = None,
    tokenizer: Any = None,
    statistics: Statistics | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    seq_len: float | None = None,
    seed: int = 0,
    fisher: FisherKind | None = None,
    targets: Targets = "model",
    rearrange: bool = True,
    align: int = 1,
    uniform: bool = False,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    latency: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    progress: bool = False,
) -> PruneResult:
    """Prune a fine-tuned model to a budget, without retraining.

    The weights of the model handed in are not changed.

    Args:
        model: a Hugging Face model, or the path or hub id of one.
        data: calibration data in any form :func:`fastprune.load_samples` reads.
        budget: ``"macs=0.5"``, ``"params=0.6"``, ``{"macs": 0.5}``, ``"macs=250M"``.
        method: how units are chosen: ``"fisher"``, ``"magnitude"`` or ``"random"``.
        tune: how survivors are corrected: ``"weights"`` (the default) re-solves the kept output
            projections, ``"scale"`` rescales kept units, ``"none"`` leaves them.
        teacher: what tuning imitates: the ``"dense"`` model, or a ``"staged"`` one pruned half-way.
        preset: ``"kwon2022"`` follows the original algorithm step for step.
        eval_data: held-out data for the scores before and after; None skips them.
        metric: of ``eval_data``; by default the task's customary one.
        tokenizer: found beside ``model`` where that is a path.
        statistics: of :func:`collect_statistics`, perhaps summed over shards or loaded from disk;
            ``data`` then serve tuning alone.
        samples: calibration samples, drawn by ``seed``; by default 2048, or all there are.
        batch_size: samples per forward pass; by default as many as keep the device busy.
        max_length: longest sample, in tokens.
        seq_len: tokens at which MACs are counted; by default the mean calibration length.
        seed: of every random choice.
        fisher: per-``"sample"`` (the default) or per-``"batch"`` gradients.
        targets: what losses are taken against: the ``"model"``'s own output distribution, which
            needs no labels, or ``"labels"``.
        rearrange: refine the masks with the block-diagonal Fisher (method ``fisher`` only).
        align: filter counts are multiples of this.
        uniform: the same widths in every layer, so that the result loads without fastprune.
        text_columns: columns of ``data`` with the text.
        label_column: column of ``data`` with the labels.
        latency: measure milliseconds before and after.
        device: ``"auto"``: a path goes to the GPU where there is one, a model stays where it is;
            a named device moves a live model there.
        dtype: of the forward and backward passes; ``"auto"`` is float32.
        progress: show progress bars.

    Raises:
        FastpruneError: anything the user can mend, in one line.
    """
    settings = Settings(
        budgets=(parse_budget(budget),),
        method=method,
        tune=tune,
        teacher=teacher,
        preset=preset,
        metric=metric,
        samples=samples,
        batch_size=batch_size,
        max_length=max_length,
        seq_len=seq_len,
        seed=seed,
        fisher=fisher,
        targets=targets,
        rearrange=rearrange,
        align=align,
        uniform=uniform,
        text_columns=text_columns,
        label_column=label_column,
        latency=latency,
        device=device,
        dtype=resolve_dtype(dtype),
        progress=progress,
    )
    (result,) = prune_to_budgets(
        model, data, settings, eval_data=eval_data, tokenizer=tokenizer, statistics=statistics
    )
    return result


def prune_to_budgets(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    settings: Settings,
    *,
    eval_data: Any = None,
    tokenizer: Any = None,
    statistics: Statistics | None = None,
) -> Iterator[PruneResult]:
    """Prune to every budget of ``settings``, one result at a time, from one calibration.

    Arguments and errors are those of :func:`prune`.
    """
    settings = settings.resolved()
    watch = Stopwatch()
    with watch.stage("load"):
        dense = load_model(model, settings.device)
        if tokenizer is None and not isinstance(model, nn.Module):
            tokenizer = load_tokenizer(model, dense)
        check_prunable(dense, settings.align)  # fails before any data are read
        reader = Reader(
            dense,
            tokenizer,
            settings.max_length,
            settings.text_columns,
            settings.label_column,
            settings.progress,
        )
        held_out = None if eval_data is None else reader.held_out(eval_data)
        calibration = reader.calibration(data, settings)
    scorer = Scorer(
        held_out,
        settings.metric,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
        progress=settings.progress,
    )
    run = _Run(dense, calibration, settings, scorer, watch)
    yield from run.results(tokenizer, statistics)


class _Run:
    """One calibration and everything derived from it."""

    def __init__(
        self,
        given: nn.Module,
        samples: Samples,
        settings: Settings,
        scorer: Scorer,
        watch: Stopwatch,
    ) -> None:
        self._given = given
        self._dense = computable(given)
        self._samples = samples
        self._settings = settings
        self._scorer = scorer
        self._watch = watch
        self._sites = find_sites(given)
        self._trace: Trace | None = None
        self._seq_len = settings.seq_len or samples.mean_length

    def results(self, tokenizer: Any, statistics: Statistics | None) -> Iterator[PruneResult]:
        """Calibrate once, then prune to one budget after the other."""
        if statistics is not None:
            statistics.check_fit(self._sites, output_fisher=self._settings.weighs_outputs)
        # Whether budgets can be met does not depend on the data: find out before reading them.
        self._search(torch.zeros(sum(site.units for site in self._sites)), self._settings.budgets)
        dense_score = self._scorer.dense(self._dense)
        if statistics is None and self._settings.calibrates:
            statistics = self._calibrate()
        metrics = {} if statistics is None else statistics.output_metrics()
        chosen = self._select(statistics)
        del statistics  # hundreds of MB in larger models, and all of it has been used
        for budget, masks in chosen:
            yield self._finish(budget, masks, metrics, dense_score, tokenizer)

    def _calibrate(self) -> Statistics:
        settings = self._settings
        recorder = Recorder(**self._recording()) if settings.imitates_dense else None
        with self._watch.stage("calibrate"):
            statistics = collect_statistics(
                self._dense,
                self._samples,
                fisher=settings.fisher_kind,
                targets=settings.targets,
                output_fisher=settings.weighs_outputs,
                batch_size=settings.batch_size,
                seed=settings.seed,
                dtype=settings.dtype,
                recorder=recorder,
                progress=self._settings.progress,
            )
        self._trace = None if recorder is None else recorder.trace()
        return statistics

    def _recording(self) -> dict[str, Any]:
        """What is kept of the dense model's work for tuning."""
        dtype = self._settings.dtype
        tokens = sum(self._samples.lengths)
        limit = trace_bytes(device_of(self._dense))
        return {
            "model": self._dense,
            "blocks": anatomy(self._dense).blocks,
            "sites": self._sites,
            # Images of a model that does not tell its number of patches: nothing is recorded.
            "depth": depth_within(self._sites, tokens, dtype, limit) if tokens else 0,
            "dtype": dtype,
            "tokens": tokens,
        }

    def _dense_trace(self) -> Trace:
        """What the dense model does with the samples, recorded once for all budgets."""
        if self._trace is None:
            settings = self._settings
            tokens = batch_tokens(self._dense, settings.dtype)
            batches = self._samples.batches(settings.batch_size, tokens=tokens)
            with evaluation_mode(self._dense):
                self._trace = record(batches=batches, **self._recording())
        return self._trace

    def _select(self, statistics: Statistics | None) -> list[tuple[Budget, _Masks]]:
        settings = self._settings
        importance = unit_importance(
            settings.method, self._dense, self._sites, statistics, settings.seed
        )
        with self._watch.stage("search"):
            kept = self._search(importance, settings.budgets)
            teachers = self._search(importance, self._teacher_budgets())
        if statistics is not None and settings.method == "fisher" and settings.rearrange:
            with self._watch.stage("rearrange"):
                rows = rearrange_masks(statistics, torch.stack(list(kept.values()))).cpu()
                kept = dict(zip(kept, rows, strict=True))
        return [
            (budget, _Masks(kept[budget], teacher))
            for budget, teacher in zip(
                settings.budgets, teachers.values() or [None] * len(kept), strict=True
            )
        ]

    def _search(self, importance: Tensor, budgets: Sequence[Budget]) -> dict[Budget, Tensor]:
        """Masks of all budgets, those of one kind in one call."""
        settings = self._settings
        kinds = uniform_kinds(self._dense) if settings.uniform else None
        masks: dict[Budget, Tensor] = {}
        for kind in {budget.kind for budget in budgets}:
            alike = [budget for budget in budgets if budget.kind == kind]
            rows = select_masks(
                importance, self._prices(kind), alike, align=settings.align, uniform=kinds
            )
            masks.update(zip(alike, rows, strict=True))
        return {budget: masks[budget] for budget in budgets}

    def _teacher_budgets(self) -> list[Budget]:
        if not self._settings.staged:
            return []
        return [
            staged_teacher_budget(budget, self._prices(budget.kind).dense)
            for budget in self._settings.budgets
        ]

    def _finish(
        self,
        budget: Budget,
        masks: _Masks,
        metrics: dict[str, Tensor],
        dense_score: float | None,
        tokenizer: Any,
    ) -> PruneResult:
        settings = self._settings
        by_site = split_packed(masks.kept, self._sites)
        watch = self._watch.copy()
        with watch.stage("compact"):
            pruned = compact(self._dense, by_site)
        with watch.stage("tune"):
            tuning = self._tune(pruned, masks, metrics)
        if self._dense is not self._given:
            restore_dtypes(pruned, self._given)
        # What is handed back is what is scored, after rounding to its own type.
        pruned_score = self._scorer.pruned(computable(pruned))
        report = Report(
            budget=str(budget),
            method=settings.method,
            tune=settings.tuner,
            preset=settings.preset,
            targets=settings.targets,
            seed=settings.seed,
            seq_len=self._seq_len,
            score=Score(self._scorer.metric, dense_score, pruned_score),
            macs=self._size("macs", pruned),
            params=self._size("params", pruned),
            params_total=Size(_parameters(self._given), _parameters(pruned)),
            units=_units(pruned),
            timing_s=watch.report(),
            sample_ids=self._samples.ids,
            latency_ms=self._measure(pruned) if settings.latency else None,
            tuning={entry.site: entry.relative_error for entry in tuning},
            warnings=_warnings(tuning, settings.parity),
            device=str(device_of(pruned)),
            dtype=str(settings.dtype).removeprefix("torch."),
        )
        return PruneResult(pruned, by_site, report, tokenizer, settings.uniform)

    def _tune(
        self, pruned: nn.Module, masks: _Masks, metrics: dict[str, Tensor]
    ) -> list[SiteTuning]:
        settings = self._settings
        tuner = RELEASED_TUNER if settings.parity else TUNERS[settings.tuner]
        if tuner is None:
            return []
        if masks.teacher is None:
            teacher, trace = self._dense, self._dense_trace()
        else:
            teacher, trace = compact(self._dense, split_packed(masks.teacher, self._sites)), None
        return tune_model(
            teacher,
            pruned,
            self._samples,
            tuner,
            trace=trace,
            metrics=metrics,
            batch_size=settings.batch_size,
            dtype=settings.dtype,
            progress=self._settings.progress,
        )

    def _prices(self, kind: BudgetKind) -> Prices:
        return price_sites(self._sites, kind, self._seq_len)

    def _size(self, kind: BudgetKind, pruned: nn.Module) -> Size:
        left = price_sites(find_sites(pruned), kind, self._seq_len)
        return Size(self._prices(kind).dense, left.dense)

    def _measure(self, pruned: nn.Module) -> Latency:
        settings = self._settings
        batch = min(settings.batch_size or _LATENCY_BATCH, len(self._samples))
        length = max(1, round(self._samples.mean_length))
        measured = measure_latency(
            {"dense": self._given, "pruned": pruned},
            batch=batch,
            length=length,
            dtype=settings.dtype,
            progress=settings.progress,
        )
        return Latency(measured["dense"], measured["pruned"], batch, length)


@dataclass(frozen=True)
class _Masks:
    """Packed masks of one budget: what stays, and what a staged teacher keeps."""

    kept: Tensor
    teacher: Tensor | None = None


def _warnings(tuning: list[SiteTuning], stops: bool) -> list[str]:
    after = "; all tuning ends here, as in the original" if stops else ""
    return [
        f"{entry.site} keeps its untuned values: {entry.failure}{after}"
        for entry in tuning
        if entry.failure is not None
    ]


def _units(model: nn.Module) -> dict[str, list[int]]:
    units = layer_units(model)
    return {"heads": units["attention"], "filters": units["ffn"]}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
