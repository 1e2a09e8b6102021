"""What came out of pruning to one budget, and its description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastprune.budget import Budget, price_sites
from fastprune.budget.latency import LatencyTable
from fastprune.cofi.lagrangian import steps_to_settle
from fastprune.data import Samples
from fastprune.device import device_of
from fastprune.merging.reduction import schedule_of
from fastprune.promise import promise_warnings
from fastprune.report import Latency, Report, Score, Size, Stopwatch, with_total
from fastprune.settings import Settings
from fastprune.structure import HeadWidths, all_head_widths, find_sites, layer_units
from fastprune.structure.stream import stream_width
from fastprune.tokens.schedule import model_macs
from fastprune.tuning import SiteTuning


@dataclass(frozen=True)
class Outcome:
    """A pruned and tuned model.

    Attributes:
        model: physically smaller.
        masks: per site of the dense model, float32 [units], 1 = kept.
        tuning: what tuning did, site by site.
        watch: the seconds that all of it took.
        hidden: float32 [hidden size], likewise; None where all hidden dimensions stay.
        training: how it was trained; None where it was not.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    tuning: list[SiteTuning]
    watch: Stopwatch
    hidden: Tensor | None = None
    training: dict[str, Any] | None = None


def describe(
    given: nn.Module,
    budget: Budget,
    outcome: Outcome,
    score: Score,
    latency: Latency | None,
    samples: Samples,
    settings: Settings,
    seq_len: float,
    table: LatencyTable | None,
    processes: int,
) -> Report:
    """Put an outcome beside what was promised.

    Args:
        given: the model as it was handed in.
        budget: what was asked for.
        outcome: what came out, in the types that are handed back.
        score: before and after.
        latency: likewise, where it was measured.
        samples: the calibration samples.
        settings: of the run.
        seq_len: tokens at which MACs are counted.
        table: the latency table that was used, if any.
        processes: how many shared the work.
    """
    pruned = outcome.model
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
        macs=Size(model_macs(given, seq_len), model_macs(pruned, seq_len)),
        params=Size(_prunable(given, seq_len), _prunable(pruned, seq_len)),
        params_total=Size(_parameters(given), _parameters(pruned)),
        units=_units(given, pruned),
        timing_s=with_total(outcome.watch.seconds),
        processor_s=with_total(outcome.watch.processor),
        sample_ids=[] if settings.selection.trains else samples.ids,
        training=outcome.training,
        latency_ms=latency,
        latency_table=None if table is None else table.origin(),
        tuning={
            entry.site: entry.relative_error
            for entry in outcome.tuning
            if entry.relative_error is not None
        },
        warnings=[
            *_warnings(outcome.tuning, settings.parity),
            *_training_warnings(outcome.training),
            *_emptiness(pruned),
            *promise_warnings(given, budget, latency, table),
        ],
        device=str(device_of(pruned)),
        processes=processes,
        dtype=str(settings.dtype).removeprefix("torch."),
    )


def _units(given: nn.Module, pruned: nn.Module) -> dict[str, list[int]]:
    """Units left per layer; dimensions inside heads only where heads have lost some."""
    units = layer_units(pruned)
    found = {"heads": units["attention"], "filters": units["ffn"]}
    before, after = all_head_widths(given), all_head_widths(pruned)
    if any(_narrowed(*layer) for layer in zip(before, after, strict=True)):
        found["query-key dimensions"] = [sum(widths.qk) for widths in after]
        found["value dimensions"] = [sum(widths.v) for widths in after]
    before_width, width = stream_width(given), stream_width(pruned)
    if width is not None and width != before_width:
        found["hidden dimensions"] = [width]
    tokens = schedule_of(pruned)
    if tokens is not None:
        found["tokens"] = tokens
    return found


def _narrowed(before: HeadWidths, after: HeadWidths) -> bool:
    """Whether the heads of a layer have lost dimensions, now or earlier."""
    given, left = (set(zip(w.qk, w.v, strict=True)) for w in (before, after))
    return bool(left - given) or len(given) > 1


def _warnings(tuning: Sequence[SiteTuning], stops: bool) -> list[str]:
    after = "; all tuning ends here, as in the original" if stops else ""
    return [
        f"{entry.site} keeps its untuned values: {entry.failure}{after}"
        for entry in tuning
        if entry.failure is not None
    ]


def _training_warnings(training: dict[str, Any] | None) -> list[str]:
    """What to say of gates that have not closed as far as they were to."""
    if training is None:
        return []
    target, expected = (training["sparsity"][name] for name in ("target", "expected"))
    if target - expected <= training["tolerance"]:
        return []
    steps, rate = training["history"]["gates"][-1]["step"], training["gate_rate"]
    return [
        f"after {steps} steps the gates expect a sparsity of {expected:.3f} where {target:.3f} is "
        "asked for, so the rest went without being learnt; train longer, or raise the gate rate: "
        f"at {rate:g} gates take about {steps_to_settle(rate)} steps"
    ]


def _emptiness(pruned: nn.Module) -> list[str]:
    """What to say of a model that has lost all its layers."""
    units = layer_units(pruned)
    if any(units["attention"]) or any(units["ffn"]):
        return []
    return ["no layer has anything left, only embeddings and head are; raise the budget"]


def _prunable(model: nn.Module, seq_len: float) -> float:
    return price_sites(find_sites(model), "params", seq_len).dense


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
