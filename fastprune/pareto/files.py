"""A sweep on disk: one directory per budget, and the curve as CSV, JSON and a picture."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastprune.atomic import atomic_file, clear_leftovers, locked
from fastprune.compaction.directories import REPORT_NAME, holds_model, read_report
from fastprune.errors import CheckpointError
from fastprune.pareto.curve import Sweep
from fastprune.pareto.point import Point

_CURVE = ("curve.csv", "curve.json", "curve.png")


def finished(out: Path, fingerprint: str) -> Iterator[Point]:
    """The points under ``out`` that a run with this fingerprint has finished.

    A model's directory appears whole or not at all, so whatever is there is finished.
    """
    for path in sorted(out.glob(f"*/{REPORT_NAME}")):
        directory, report = path.parent, read_report(path.parent)
        if report is None or report.get("fingerprint") != fingerprint:
            continue
        point = Point(report, directory)
        # Copies under other names are none of the sweep's, and damage is done again.
        own = directory.name == str(report["budget"]).replace("=", "-")
        with suppress(KeyError, TypeError, ValueError):
            if own and holds_model(directory) and point.row():
                yield point


def check_out(out: Path, *, replace: bool, keep: Sequence[str | os.PathLike[str] | None]) -> None:
    """Refuse a directory that is no place for a sweep, before any work is done for it.

    Args:
        out: the directory.
        replace: whether an earlier sweep's curve may be replaced.
        keep: what is read, which must not be written into.

    Raises:
        CheckpointError: it holds a model, or a curve that may not be replaced.
    """
    read = [Path(path).resolve() for path in keep if path is not None]
    if (out / "config.json").exists() or out.resolve() in read:
        raise CheckpointError(f"{out} holds a model; choose another directory")
    for name in _CURVE:
        path = out / name
        if path.is_dir():
            raise CheckpointError(f"{path} is a directory; choose another one for --out")
        if path.exists() and not replace:
            raise CheckpointError(
                f"{path} exists; choose another directory, go on with what is there (--resume), or "
                "replace it (--overwrite; in Python resume=True, overwrite=True)"
            )


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other sweeps of this machine out of a directory; it is made where it is not there.

    What a killed one left half-written is removed.

    Raises:
        CheckpointError: another sweep is at work there, or the directory cannot be made.
    """
    with locked(out, "another sweep"):
        clear_leftovers(out)
        yield


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
    if sweep.metric is None:
        (out / "curve.png").unlink(missing_ok=True)
    else:
        from fastprune.pareto.picture import draw  # matplotlib takes long to import

        with atomic_file(out / "curve.png") as path:
            draw(sweep).savefig(path, format="png", dpi=144)
