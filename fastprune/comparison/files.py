"""A comparison on disk: everything as JSON, and summaries as CSV, Markdown and a picture."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastprune.atomic import atomic_file
from fastprune.comparison.comparison import Comparison
from fastprune.comparison.trial import Trial
from fastprune.errors import CheckpointError

_JSON = "comparison.json"
_FILES = (_JSON, "comparison.csv", "comparison.md", "comparison.png")


def check_out(out: Path, *, replace: bool, keep: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse a directory that is no place for a comparison, before any work is done for it.

    Args:
        out: the directory.
        replace: whether an earlier comparison may be replaced.
        keep: what is read, which must not be written into.

    Raises:
        CheckpointError: it holds a model, or a comparison that may not be replaced.
    """
    if (out / "config.json").exists() or out.resolve() in [Path(path).resolve() for path in keep]:
        raise CheckpointError(f"{out} holds a model; choose another directory")
    for path in (out / name for name in _FILES):
        if path.is_dir():
            raise CheckpointError(f"{path} is a directory; choose another one for --out")
        if path.exists() and not replace:
            raise CheckpointError(
                f"{path} exists; choose another directory, go on with what is there (--resume), or "
                "replace it (--overwrite; in Python resume=True, overwrite=True)"
            )


def read_trials(out: Path) -> list[Trial]:
    """The trials of an earlier comparison; none where there is no sound one."""
    try:
        values = json.loads((out / _JSON).read_text(encoding="utf-8"))
        return [Trial.from_dict(trial) for trial in values["trials"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_trials(found: Comparison, out: Path, origin: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, whole or not at all.

    Args:
        found: as far as it has come.
        out: the directory.
        origin: where and with what it was made.

    Raises:
        CheckpointError: it cannot be written.
    """
    values = {
        **origin,
        "metric": found.metric,
        "dense_score": found.dense,
        "left_out": dict(found.left_out),
        "trials": [trial.to_dict() for trial in found.trials],
    }
    with atomic_file(out / _JSON) as path:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_summaries(found: Comparison, out: Path) -> None:
    """Write ``comparison.csv``, ``comparison.md`` and ``comparison.png``.

    Raises:
        CheckpointError: a file cannot be written.
    """
    rows = found.rows()
    csv_path = out / "comparison.csv"
    with atomic_file(csv_path) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with atomic_file(out / "comparison.md") as path:
        path.write_text(markdown(found), encoding="utf-8")
    from fastprune.comparison.picture import draw  # matplotlib takes long to import

    with atomic_file(out / "comparison.png") as path:
        draw(found).savefig(path, format="png", dpi=144)


def markdown(found: Comparison) -> str:
    """The table of scores: one line per way, one column per budget; and warnings below it."""
    head = ["method", "tune", *found.budgets, found.clock]
    lines = [head, ["---"] * len(head)]
    for way in found.ways:
        scores = [str(found.score(way, budget)) for budget in found.budgets]
        lines.append([way.method, way.tune, *scores, f"{found.seconds(way):.1f}"])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    told = "".join(f"\n- {warning}" for warning in found.warnings)
    return f"{found.metric}, dense {found.dense:.4f}\n\n{table}\n{told and told + chr(10)}"
