"""What every job gave: a row per job and budget, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fastprune.batch.attempt import Ending
from fastprune.batch.job import Job
from fastprune.batch.store import Store, write_text


@dataclass(frozen=True)
class Row:
    """One job and budget.

    Attributes:
        state: ``"done"``, ``"waiting"``, ``"running"``, or how the job's last attempt ended.
        metric: of the scores; None, like all numbers, where nothing is known (yet).
        macs_kept: share of the prunable part's multiply-accumulates; ``params_kept`` likewise.
        latency_before_ms: per batch, as in the report; ``latency_after_ms`` likewise.
        seconds: that the job's last attempt took, all its budgets together.
        attempts: at the job, in the run of the batch that last worked on it.
        error: one line; None where the budget is done.
        directory: of the smaller model.
    """

    job: str
    model: str
    budget: str
    state: str
    metric: str | None = None
    score_before: float | None = None
    score_after: float | None = None
    macs_kept: float | None = None
    params_kept: float | None = None
    latency_before_ms: float | None = None
    latency_after_ms: float | None = None
    seconds: float | None = None
    attempts: int = 0
    error: str | None = None
    directory: str | None = None


@dataclass(frozen=True)
class Summary:
    """What a batch gave.

    Attributes:
        out: the directory with everything.
        rows: per job and budget, in the order of the job file.
        failed: jobs that will not be tried again, and why.
    """

    out: Path
    rows: list[Row]
    failed: dict[str, Ending] = field(default_factory=dict)


def summarise(
    jobs: list[Job],
    store: Store,
    states: Mapping[str, str],
    endings: Mapping[str, Ending],
    attempts: Mapping[str, int],
) -> Summary:
    """Read from disk what has come of every job.

    Args:
        jobs: all of the batch.
        store: where it lies.
        states: ``"waiting"``, ``"running"``, … per job.
        endings: of the last attempts of this run.
        attempts: of this run; jobs without any are as an earlier run left them.
    """
    rows = [
        row
        for job in jobs
        for row in _rows(job, store, states[job.name], endings.get(job.name), attempts)
    ]
    over = {name: ending for name, ending in endings.items() if states[name] not in _OPEN}
    return Summary(store.out, rows, {n: e for n, e in over.items() if e.kind != "done"})


_OPEN = ("waiting", "running")


def _rows(
    job: Job, store: Store, state: str, ending: Ending | None, attempts: Mapping[str, int]
) -> Iterator[Row]:
    reports = store.reports(job)
    outcome = store.read_outcome(job.name) or {}
    for budget, directory in job.directories().items():
        common: dict[str, Any] = {
            "job": job.name,
            "model": job.model,
            "budget": budget,
            "seconds": outcome.get("seconds"),
            "attempts": attempts.get(job.name) or outcome.get("attempt", 0),
        }
        if budget in reports:
            path = str(store.directory(job.name) / directory)
            yield Row(state="done", **common, **_measured(reports[budget]), directory=path)
        else:
            error = ending.error if ending is not None else None
            yield Row(state=state, **common, error=error)


def _measured(report: Mapping[str, Any]) -> dict[str, Any]:
    latency = report["latency_ms"] or {}
    return {
        "metric": report["metric"],
        "score_before": report["dense"]["score"],
        "score_after": report["pruned"]["score"],
        "macs_kept": report["macs"]["kept"],
        "params_kept": report["params"]["kept"],
        "latency_before_ms": latency.get("dense"),
        "latency_after_ms": latency.get("pruned"),
    }


def write_summary(summary: Summary, store: Store) -> None:
    """Write ``summary.csv`` and ``summary.json``, each whole or not at all."""
    rows = [asdict(row) for row in summary.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(store.out / "summary.csv", text.getvalue())
    write_text(store.out / "summary.json", json.dumps(rows, indent=2) + "\n")
