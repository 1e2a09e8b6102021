"""A sweep on disk: one directory per budget, and the curve as CSV, JSON and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from fastprune.atomic import atomic_file
from fastprune.compaction.directories import REPORT_NAME, read_report
from fastprune.pareto.curve import Sweep
from fastprune.pareto.point import Point


def finished(out: Path, fingerprint: str) -> Iterator[Point]:
    """The points under ``out`` that a run with this fingerprint has finished.

    A model's directory appears whole or not at all, so whatever is there is finished.
    """
    for path in sorted(out.glob(f"*/{REPORT_NAME}")):
        report = read_report(path.parent)
        if report is not None and report.get("fingerprint") == fingerprint:
            yield Point(report, path.parent)


def write_curve(sweep: Sweep, out: Path) -> None:
    """Write ``curve.csv``, ``curve.json`` and, where something was scored, ``curve.png``.

    Raises:
        CheckpointError: a file cannot be written.
    """
    rows = [point.row() for point in sweep.points]
    best = [] if sweep.metric is None else [point.budget for point in sweep.pareto()]
    for row in rows:
        row["pareto_macs"] = row["budget"] in best
    with atomic_file(out / "curve.csv") as path, path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    first = sweep.points[0].report
    shared = ("metric", "method", "tune", "stages", "preset", "targets", "seed", "seq_len")
    curve = {
        **{name: first[name] for name in (*shared, "device", "dtype", "versions")},
        "dense_score": sweep.dense_score,
        "seconds": sweep.seconds,
        "points": rows,
    }
    with atomic_file(out / "curve.json") as path:
        path.write_text(json.dumps(curve, indent=2) + "\n", encoding="utf-8")
    if sweep.metric is not None:
        from fastprune.pareto.picture import draw  # matplotlib takes long to import

        with atomic_file(out / "curve.png") as path:
            draw(sweep).savefig(path, format="png", dpi=144)
