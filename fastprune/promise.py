"""What latency was promised, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastprune.budget import Budget
from fastprune.budget.latency import LatencyTable
from fastprune.budget.latency.workload import Workload
from fastprune.data import Samples
from fastprune.evaluation.latency import measure_latency
from fastprune.report import Latency, Size
from fastprune.settings import Settings

_BATCH = 32
"""Samples that latency is measured with, where no batch size is given."""
_TOLERANCE = 0.05
"""How far a measured latency may be off the table's estimate without a warning."""


def workload_of(samples: Samples, settings: Settings) -> Workload:
    """What latency is measured of, where no table says so."""
    return Workload(
        batch=min(settings.batch_size or _BATCH, len(samples)),
        length=max(1, round(samples.mean_length)),
        dtype=settings.dtype,
    )


def latencies(
    given: nn.Module,
    pruned: Sequence[nn.Module],
    samples: Samples,
    settings: Settings,
    table: LatencyTable | None,
) -> list[Latency | None]:
    """Measure pruned models and the one that was handed in, in turns.

    Args:
        given: the model as it was handed in.
        pruned: what came out of it.
        samples: the calibration samples, whose mean length is measured
            unless a table says what it promises.
        settings: of the run.
        table: that was used, if any.

    Returns:
        one per pruned model; all None where the settings ask for no measurement.
    """
    if not settings.latency:
        return [None] * len(pruned)
    workload = workload_of(samples, settings) if table is None else table.workload
    models = {"dense": given} | {str(i): model for i, model in enumerate(pruned)}
    measured = measure_latency(models, **vars(workload), progress=settings.progress)
    dense = measured.pop("dense")
    return [
        Latency(
            dense,
            milliseconds,
            workload.batch,
            workload.length,
            str(workload.dtype).removeprefix("torch."),
            workload.compiled,
            None if table is None else Size(table.estimate(given), table.estimate(model)),
        )
        for milliseconds, model in zip(measured.values(), pruned, strict=True)
    ]


def promise_warnings(
    given: nn.Module, budget: Budget, latency: Latency | None, table: LatencyTable | None
) -> list[str]:
    """What speaks against the table, and that its estimate does not hold: one line each.

    Args:
        given: the model as it was handed in.
        budget: what was asked for; one of latency is a promise, for others the table only informs.
        latency: what was measured, if anything.
        table: that was used, if any.
    """
    found = [] if table is None else table.warnings(given)
    if budget.kind != "latency" or latency is None or latency.estimated is None:
        return found
    estimated, share = latency.estimated, latency.pruned / latency.dense
    # What was asked for is what counts: a share, or milliseconds.
    off = latency.deviation if budget.relative else latency.pruned / estimated.pruned - 1
    if off is not None and abs(off) > _TOLERANCE:
        found.append(
            f"latency is {off:+.1%} off the table's estimate: measured {latency.pruned:.4g} ms, "
            f"{share:.3f} of the dense model's, estimated {estimated.pruned:.4g} ms, "
            f"{estimated.kept:.3f}; measure table and models on a quiet machine"
        )
    return found
