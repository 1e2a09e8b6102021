"""The main job as users call it: a model and samples in, smaller models out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, parse_budget
from fastprune.budget.latency import LatencyTable, Place
from fastprune.calibration import Statistics
from fastprune.calibration.objective import Targets
from fastprune.calibration.statistics import FisherKind
from fastprune.cofi.choices import GateTraining
from fastprune.compaction import save_pretrained
from fastprune.data import Samples
from fastprune.device import device_of, resolve_dtype, settle_allocator
from fastprune.distributed import Group, check_alike, check_devices, current_group
from fastprune.evaluation import measure_latency_table, resolve_metric
from fastprune.evaluation.scorer import Scorer
from fastprune.fingerprint import (
    fingerprint,
    fingerprint_model,
    fingerprint_samples,
    fingerprint_statistics,
)
from fastprune.inputs import (
    Reader,
    check_prunable,
    load_model,
    load_path,
    load_table,
    load_tokenizer,
)
from fastprune.learned import Learned
from fastprune.promise import workload_of
from fastprune.report import Report, Stopwatch
from fastprune.run import Run
from fastprune.settings import Settings
from fastprune.spp.saved import SearchedPath
from fastprune.structure.declaration import anatomy
from fastprune.tokens.reduce import check_reducible
from fastprune.version import __version__

BudgetLike = Budget | str | float | Mapping[str, object]


@dataclass
class PruneResult:
    """A pruned model and how it came about.

    Attributes:
        model: physically smaller and tuned; dtype, device and mode as the model handed in.
        masks: per site of the original model, float32 [units], 1 = kept.
        hidden: float32 [hidden size], likewise; None where all hidden dimensions stay.
        report: what was promised and what was measured.
        tokenizer: saved beside the model, where there is one.
        uniform: whether it is saved with a stock config that loads without fastprune.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    report: Report
    tokenizer: Any = field(default=None, repr=False)
    uniform: bool = False
    hidden: Tensor | None = None

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, overwrite: bool = False
    ) -> None:
        """Save model, tokenizer and report; see :func:`fastprune.save_pretrained`.

        Within :func:`fastprune.data_parallel` the first process saves, and the others do nothing.
        """
        if current_group().rank > 0:
            return
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
    method: str | None = None,
    granularity: str = "heads",
    path: SearchedPath | str | os.PathLike[str] | None = None,
    training: GateTraining | None = None,
    tune: str | None = None,
    stages: int = 1,
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
    align: int | None = None,
    uniform: bool = False,
    tokens: float | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    latency: bool = True,
    latency_table: LatencyTable | str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    progress: bool = False,
) -> PruneResult:
    """Prune a fine-tuned model to a budget, without retraining.

    The weights of the model handed in are not changed. Within :func:`fastprune.data_parallel` all
    processes share the work and get the same result.

    Args:
        model: a Hugging Face model, or the path or hub id of one.
        data: calibration data in any form :func:`fastprune.load_samples` reads.
        budget: ``"macs=0.5"``, ``"params=0.6"``, ``"latency=0.7"``, ``{"macs": 0.5}``,
            ``"macs=250M"``, ``"latency=12ms"``.
        method: how units are chosen: ``"obs"`` (the default), ``"obs-plain"``, ``"fisher"``,
            ``"optin"``, ``"optin-parity"``, ``"spp"``, ``"spp-passes"``, ``"kprune"``, ``"cofi"``,
            ``"magnitude"`` or ``"random"``; see
            :data:`fastprune.selection.METHODS`.
        granularity: how finely attention is cut: ``"heads"``, or ``"dimensions"`` and
            ``"shared-dimensions"`` inside them; see :data:`fastprune.structure.GRANULARITIES`.
        path: that :func:`fastprune.search_path` has found, for ``method="spp"``; by default a path
            is followed on the calibration samples.
        training: for ``method="cofi"``, how the model is trained; ``data`` then need labels, and
            budgets are reached from the dense model one after the other.
        tune: how survivors are corrected: ``"weights"`` (the default) re-solves the kept output
            projections, ``"scale"`` rescales kept units, ``"bias"`` keeps the mean of what goes,
            ``"none"`` leaves all as it is.
        stages: prune in this many steps of equal factors, calibrating and tuning at each.
        teacher: what tuning imitates: the ``"dense"`` model, or a ``"staged"`` one pruned half-way.
        preset: ``"kwon2022"`` follows the original algorithm step for step.
        eval_data: held-out data for the scores before and after; None skips them.
        metric: of ``eval_data``; by default the task's customary one.
        tokenizer: found beside ``model`` where that is a path.
        statistics: of :func:`collect_statistics`, perhaps summed over shards or loaded from disk;
            ``data`` then serve tuning alone.
        samples: calibration samples, drawn by ``seed``; by default 2048, or all there are. A method
            that trains takes all by default.
        batch_size: samples per forward pass; by default as many as keep the device busy.
        max_length: longest sample, in tokens.
        seq_len: tokens at which MACs are counted; by default the mean calibration length.
        seed: of every random choice.
        fisher: per-``"sample"`` (the default) or per-``"batch"`` gradients.
        targets: what losses are taken against: the ``"model"``'s own output distribution, which
            needs no labels, or ``"labels"``.
        rearrange: refine the masks with the block-diagonal Fisher (method ``fisher`` only).
        align: filter counts are multiples of this; by default of 8 under a latency budget.
        uniform: the same widths in every layer, so that the result loads without fastprune.
        tokens: ViT and DeiT: the share of the pruned model's MACs that fewer tokens are to save on
            top, as :func:`fastprune.reduce_tokens` does; by default all tokens stay.
        text_columns: columns of ``data`` with the text.
        label_column: column of ``data`` with the labels.
        latency: measure milliseconds before and after.
        latency_table: of this model, from :func:`measure_latency_table` or ``fastprune lut``; says
            what latency budgets are of, and what is measured. By default latency budgets measure
            one, at the samples' mean length.
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
        granularity=granularity,
        path=path,
        training=training,
        tune=tune,
        stages=stages,
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
        tokens=tokens,
        text_columns=text_columns,
        label_column=label_column,
        latency=latency,
        latency_table=latency_table,
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
    prepared = prepare(model, data, settings, eval_data=eval_data, tokenizer=tokenizer)
    yield from prepared.results(statistics)


@dataclass(frozen=True)
class Prepared:
    """Everything a run starts from, loaded and checked.

    Attributes:
        model: to prune.
        tokenizer: saved beside the results, where there is one.
        samples: to calibrate with.
        held_out: to score on; None where nothing is scored.
        settings: resolved.
        watch: which has timed the loading.
        group: the processes that share the work.
    """

    model: nn.Module
    tokenizer: Any
    samples: Samples
    held_out: Samples | None
    settings: Settings
    watch: Stopwatch
    group: Group

    @property
    def metric(self) -> str | None:
        """What is scored; None where nothing is."""
        return (
            None if self.held_out is None else resolve_metric(self.settings.metric, self.held_out)
        )

    def results(
        self, statistics: Statistics | None = None, *, learned: Learned | None = None
    ) -> Iterator[PruneResult]:
        """Prune to every budget of the settings.

        Args:
            statistics: as for :func:`prune`.
            learned: what other runs on the same model and samples have found out, and this one adds
                to.
        """
        settings = self.settings
        settings.check_task(self.samples.task)
        scorer = Scorer(
            self.held_out,
            settings.metric,
            batch_size=settings.batch_size,
            dtype=settings.dtype,
            progress=settings.progress,
        )
        with self.group.agreed():
            check_alike(self.group, {"settings": fingerprint(self._choices(statistics))})
            table = self._table()
            run = Run(
                self.model,
                self.samples,
                settings,
                scorer,
                self.watch,
                table,
                self.group,
                Learned() if learned is None else learned,
            )
            for pruned in run.results(statistics):
                yield PruneResult(
                    pruned.model,
                    pruned.masks,
                    pruned.report,
                    self.tokenizer,
                    uniform=settings.uniform,
                    hidden=pruned.hidden,
                )

    def _table(self) -> LatencyTable | None:
        """The latency table: the one given, or one measured now where a budget is of time."""
        given = self.settings.latency_table
        if isinstance(given, LatencyTable):
            return given
        if not self.settings.promises_latency:
            return None
        workload = workload_of(self.samples, self.settings)
        measure = partial(measure_latency_table, self.model, **vars(workload))
        return self.group.first(partial(measure, progress=self.settings.progress))

    def fingerprint(self, statistics: Statistics | None = None) -> str:
        """Of all that a result depends on, its budget apart."""
        chosen = self._choices(statistics)
        del chosen["budgets"]
        return fingerprint(
            {
                "fastprune": __version__,
                "model": fingerprint_model(self.model),
                "samples": fingerprint_samples(self.samples),
                "held_out": self.held_out and fingerprint_samples(self.held_out),
                **chosen,
            }
        )

    def _choices(self, statistics: Statistics | None) -> dict[str, Any]:
        """All that a result depends on besides the model and the data."""
        chosen = asdict(replace(self.settings, training=None))  # may hold a loss: no plain value
        for name in ("device", "cache", "progress"):
            del chosen[name]
        chosen["training"] = (
            self.settings.gate_training.chosen() if self.settings.selection.trains else None
        )
        chosen["statistics"] = statistics and fingerprint_statistics(statistics)
        if self.settings.promises_latency and self.settings.latency_table is None:
            chosen["place"] = asdict(Place.of(self.model))  # a table will be measured here
        return chosen


def prepare(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    settings: Settings,
    *,
    eval_data: Any = None,
    tokenizer: Any = None,
) -> Prepared:
    """Load and check what a run needs; arguments and errors are those of :func:`prune`."""
    group = current_group()
    settings = settings.resolved()
    if group.rank > 0:
        settings = replace(settings, progress=False)
    settle_allocator()
    watch = Stopwatch()
    with watch.stage("load"), group.agreed():
        dense = load_model(model, settings.device)
        if tokenizer is None and not isinstance(model, nn.Module):
            tokenizer = load_tokenizer(model, dense)
        # These fail before any data are read.
        settings = settings.for_layers(anatomy(dense).stacked)
        check_prunable(dense, settings.align or 1, settings.granularity)
        if settings.token_budget is not None:
            check_reducible(dense, settings.token_budget)
        # Read once: what counts from here on is what a table says, not where it lies.
        settings = replace(
            settings,
            latency_table=load_table(settings.latency_table, dense),
            path=load_path(settings.path, dense, settings.granularity),
        )
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
        check_devices(group, device_of(dense))
        if group.size > 1:
            given = {
                "model": fingerprint_model(dense),
                "calibration samples": fingerprint_samples(calibration),
            }
            check_alike(group, given)
    return Prepared(dense, tokenizer, calibration, held_out, settings, watch, group)
