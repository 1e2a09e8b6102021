"""What came out of pruning to one budget, and its description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fastprune.budget import Budget, BudgetKind, price_sites
from fastprune.budget.latency import LatencyTable
from fastprune.data import Samples
from fastprune.device import device_of
from fastprune.evaluation.latency import measure_latency
from fastprune.evaluation.workload import Workload
from fastprune.report import Latency, Report, Score, Size, Stopwatch
from fastprune.settings import Settings
from fastprune.structure import find_sites, layer_units
from fastprune.tuning import SiteTuning

_LATENCY_BATCH = 32
"""Samples that latency is measured with, where no batch size is given."""
_PROMISE = 0.05
"""How far a measured latency may be off the table's estimate without a warning."""


@dataclass(frozen=True)
class Outcome:
    """A pruned and tuned model.

    Attributes:
        model: physically smaller.
        masks: per site of the dense model, float32 [units], 1 = kept.
        tuning: what tuning did, site by site.
        watch: the seconds that all of it took.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    tuning: list[SiteTuning]
    watch: Stopwatch


def describe(
    given: nn.Module,
    budget: Budget,
    outcome: Outcome,
    score: Score,
    samples: Samples,
    settings: Settings,
    seq_len: float,
    table: LatencyTable | None,
) -> Report:
    """Measure an outcome and put it beside what was promised.

    Args:
        given: the model as it was handed in.
        budget: what was asked for.
        outcome: what came out, in the types that are handed back.
        score: before and after.
        samples: the calibration samples.
        settings: of the run.
        seq_len: tokens at which MACs are counted.
        table: estimates latency, and says what it is measured of.
    """
    pruned = outcome.model
    units = layer_units(pruned)
    latency = _latency(given, pruned, samples, settings, table) if settings.latency else None
    return Report(
        budget=str(budget),
        method=settings.method_name,
        tune=settings.tuner,
        stages=settings.stages,
        preset=settings.preset,
        targets=settings.targets,
        seed=settings.seed,
        seq_len=seq_len,
        score=score,
        macs=_size("macs", given, pruned, seq_len),
        params=_size("params", given, pruned, seq_len),
        params_total=Size(_parameters(given), _parameters(pruned)),
        units={"heads": units["attention"], "filters": units["ffn"]},
        timing_s=outcome.watch.report(),
        sample_ids=samples.ids,
        latency_ms=latency,
        latency_table=None if table is None else table.origin(),
        tuning={
            entry.site: entry.relative_error
            for entry in outcome.tuning
            if entry.relative_error is not None
        },
        warnings=[
            *_warnings(outcome.tuning, settings.parity),
            *_latency_warnings(given, budget, latency, table),
        ],
        device=str(device_of(pruned)),
        dtype=str(settings.dtype).removeprefix("torch."),
    )


def _size(kind: BudgetKind, given: nn.Module, pruned: nn.Module, seq_len: float) -> Size:
    return Size(*(price_sites(find_sites(m), kind, seq_len).dense for m in (given, pruned)))


def workload_of(samples: Samples, settings: Settings) -> Workload:
    """What latency is measured of, where no table says so."""
    return Workload(
        batch=min(settings.batch_size or _LATENCY_BATCH, len(samples)),
        length=max(1, round(samples.mean_length)),
        dtype=settings.dtype,
    )


def _latency(
    given: nn.Module,
    pruned: nn.Module,
    samples: Samples,
    settings: Settings,
    table: LatencyTable | None,
) -> Latency:
    workload = workload_of(samples, settings) if table is None else table.workload
    estimated = None if table is None else Size(*map(table.estimate, (given, pruned)))
    measured = measure_latency(
        {"dense": given, "pruned": pruned}, **vars(workload), progress=settings.progress
    )
    return Latency(
        measured["dense"],
        measured["pruned"],
        workload.batch,
        workload.length,
        str(workload.dtype).removeprefix("torch."),
        workload.compiled,
        estimated,
    )


def _latency_warnings(
    given: nn.Module, budget: Budget, latency: Latency | None, table: LatencyTable | None
) -> list[str]:
    found = [] if table is None else table.place.warnings(given)
    if budget.kind != "latency" or latency is None or latency.estimated is None:
        return found
    estimated, share = latency.estimated, latency.pruned / latency.dense
    # What was asked for is what is held to: a share, or milliseconds.
    off = latency.deviation if budget.relative else latency.pruned / estimated.pruned - 1
    if off is not None and abs(off) > _PROMISE:
        found.append(
            f"latency is {off:+.1%} off the table's estimate: measured {latency.pruned:.4g} ms, "
            f"{share:.3f} of the dense model's, estimated {estimated.pruned:.4g} ms, "
            f"{estimated.kept:.3f}; measure the table and the model on a quiet machine"
        )
    return found


def _warnings(tuning: Sequence[SiteTuning], stops: bool) -> list[str]:
    after = "; all tuning ends here, as in the original" if stops else ""
    return [
        f"{entry.site} keeps its untuned values: {entry.failure}{after}"
        for entry in tuning
        if entry.failure is not None
    ]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
