#!/usr/bin/env python
"""Accuracy against budget for every way of choosing and of tuning, as JSON and as a table.

    python benchmarks/accuracy.py sst2          # fine-tuned classifier, labelled sentences
    python benchmarks/accuracy.py embeddings    # sentence encoder of the demo, no labels

Writes ``benchmarks/results/accuracy_<case>.json``. One calibration serves all budgets of a row.
``--rows "a;b"`` makes some rows again and keeps the others; ``--budgets`` and ``--name`` make
another table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provenance import provenance
from real_model import assets
from rich.console import Console
from rich.table import Table

from fastprune import parse_budget
from fastprune.demo import encoder_directory, text_corpus
from fastprune.pipeline import prune_to_budgets
from fastprune.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = (0.7, 0.5, 0.4, 0.3, 0.25, 0.2)
SAMPLES = 2048
ROWS: dict[str, dict[str, Any]] = {
    "obs": {},
    "obs, 2 stages": {"stages": 2},
    "obs, bias": {"tune": "bias"},
    "obs, none": {"tune": "none"},
    "obs-plain": {"method": "obs-plain"},
    "kprune": {"method": "kprune"},
    "fisher": {"method": "fisher"},
    "fisher, scale": {"method": "fisher", "tune": "scale"},
    "fisher, none": {"method": "fisher", "tune": "none"},
    "spp": {"method": "spp"},
    "spp, none": {"method": "spp", "tune": "none"},
    "random": {"method": "random"},
    "random, none": {"method": "random", "tune": "none"},
}
"""What is compared, by method and then tuning, where it is not the default ``weights``."""


def sst2() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The common arguments, and what each row adds to them."""
    found = assets()
    common = {
        "model": str(found / "models" / "minilm-sst2"),
        "data": str(found / "data" / "sst2" / "train.tsv"),
        "eval_data": str(found / "data" / "sst2" / "validation.tsv"),
    }
    # As in the original's own settings for this task.
    original = {"preset": "kwon2022", "max_length": 64, "seq_len": 25}
    return common, {**ROWS, "kwon2022": original}


def embeddings() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The same for sentence embeddings; strict parity needs labels, so it has no row."""
    train, held_out = text_corpus(calibration=SAMPLES, heldout=1024, seed=0)
    common = {"model": str(encoder_directory()), "data": train, "eval_data": held_out}
    return common, ROWS


CASES = {"sst2": sst2, "embeddings": embeddings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", help="names of rows, separated by semicolons; default: all")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="shares of MACs")
    parser.add_argument("--name", help="of the file, after accuracy_; default: the case")
    arguments = parser.parse_args()
    common, rows = CASES[arguments.case]()
    name = arguments.name or arguments.case
    target = ROOT / "benchmarks" / "results" / f"accuracy_{name}.json"
    results: dict[str, Any] = {}
    if arguments.rows:
        if target.exists():
            results = json.loads(target.read_text())["results"]
        results = {name: row for name, row in results.items() if name in rows}
        rows = {name: rows[name] for name in arguments.rows.split(";")}
    for name, options in rows.items():
        settings = Settings(
            budgets=tuple(map(parse_budget, arguments.budgets)),
            samples=SAMPLES,
            seed=arguments.seed,
            latency=False,
            progress=True,
            **options,
        )
        found = list(prune_to_budgets(settings=settings, **common))
        budgets = [summary(result.report.to_dict()) for result in found]
        results[name] = {"seed": arguments.seed, **provenance(), "budgets": budgets}
    target.parent.mkdir(exist_ok=True)
    record = {"case": arguments.case, "results": results}
    target.write_text(json.dumps(record, indent=2) + "\n")
    print_table(results, arguments.budgets)


def summary(report: dict[str, Any]) -> dict[str, Any]:
    keys = ("budget", "metric", "dense", "pruned", "macs", "units", "timing_s", "warnings")
    return {key: report[key] for key in keys}


def print_table(results: dict[str, Any], budgets: Sequence[float]) -> None:
    first = next(iter(results.values()))["budgets"][0]
    title = f"dense {first['dense']['score']:.4f}"
    table = Table("MACs kept", *(f"{budget:g}" for budget in budgets), title=title)
    for name, row in results.items():
        table.add_row(name, *(f"{budget['pruned']['score']:.4f}" for budget in row["budgets"]))
    Console().print(table)


if __name__ == "__main__":
    main()
