"""How pruned models lie on disk: one directory per budget, each with a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fastprune.budget import Budget

REPORT_NAME = "fastprune_report.json"


def budget_directory(out: Path, budget: Budget) -> Path:
    """Where the model of a budget lies."""
    return out / str(budget).replace("=", "-")


def holds_model(directory: Path) -> bool:
    """Whether a config and whole weights are there; their contents are not looked at."""
    files = list(directory.glob("*.safetensors"))
    try:
        for file in files:
            with safe_open(file, "pt"):  # compares the file's size with what its header says
                pass
    except (OSError, SafetensorError):
        return False
    return bool(files) and (directory / "config.json").is_file()


def read_report(directory: Path) -> dict[str, Any] | None:
    """The report in a model's directory; None where there is none, or something else."""
    try:
        report = json.loads((directory / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and "budget" in report else None
