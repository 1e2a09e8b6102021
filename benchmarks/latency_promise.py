#!/usr/bin/env python
"""Whether latency budgets are kept: what tables estimate beside what is measured.

    python benchmarks/latency_promise.py        # about 3 minutes on two cores

For each workload, a table of the fine-tuned classifier is measured as ``fastprune lut`` does, and
the classifier is pruned with it to several budgets. Then all models take turns with the dense one.
Writes ``benchmarks/results/latency_promise_<device>.json``. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from real_model import assets
from rich.console import Console
from rich.table import Table

from fastprune import load_pretrained, measure_latency, measure_latency_table, parse_budget
from fastprune.budget.latency.workload import Workload
from fastprune.pipeline import prepare
from fastprune.settings import Settings
from fastprune.structure import layer_units

ROOT = Path(__file__).resolve().parent
WORKLOADS = (Workload(32, 24), Workload(8, 128), Workload(1, 24))
SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TOLERANCE = 0.05


def promises(workload: Workload, repeats: int) -> dict[str, Any]:
    """One table, the models it leads to, and what they take."""
    model = load_pretrained(assets() / "models" / "minilm-sst2")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    start = time.perf_counter()
    table = measure_latency_table(model, **vars(workload))
    seconds = time.perf_counter() - start
    settings = Settings(
        budgets=tuple(parse_budget({"latency": share}) for share in SHARES),
        samples=256,
        latency=False,
        latency_table=table,
        tune="none",  # which weights are left takes no part in how long they take
    )
    train = assets() / "data" / "sst2" / "train.tsv"
    prepared = prepare(str(assets() / "models" / "minilm-sst2"), str(train), settings)
    pruned = {result.report.budget: result.model for result in prepared.results()}
    measured = measure_latency({"dense": model, **pruned}, **vars(workload), repeats=repeats)
    dense = measured.pop("dense")
    rows = []
    for name, milliseconds in measured.items():
        estimate = table.estimate(pruned[name])
        share, promised = milliseconds / dense, estimate / table.dense_ms
        rows.append(
            {
                "budget": name,
                "estimated_ms": estimate,
                "measured_ms": milliseconds,
                "estimated_share": promised,
                "measured_share": share,
                "deviation": share / promised - 1,
                "deviation_ms": milliseconds / estimate - 1,
                "units": layer_units(pruned[name]),
            }
        )
    return {
        **table.origin(),
        "table_seconds": seconds,
        "table_spread": table.spread,
        "table_parts": table.parts,
        "dense_ms": {"table": table.dense_ms, "measured": dense},
        "budgets": rows,
        "kept": all(abs(row["deviation"]) <= TOLERANCE for row in rows),
    }


def show(workload: Workload, found: dict[str, Any]) -> None:
    """Print one workload."""
    title = (
        f"{workload}: table in {found['table_seconds']:.0f} s, spread {found['table_spread']:.1%}"
    )
    shown = Table("budget", "estimated", "measured", "share", "off", "off in ms", title=title)
    for row in found["budgets"]:
        shown.add_row(
            row["budget"],
            f"{row['estimated_ms']:.1f} ms",
            f"{row['measured_ms']:.1f} ms",
            f"{row['measured_share']:.3f}",
            f"{row['deviation']:+.1%}",
            f"{row['deviation_ms']:+.1%}",
        )
    Console().print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="rounds of the final measurement")
    parser.add_argument("--workloads", type=int, default=len(WORKLOADS), help="only the first ones")
    arguments = parser.parse_args()
    found = []
    for workload in WORKLOADS[: arguments.workloads]:
        found.append(promises(workload, arguments.repeats))
        show(workload, found[-1])
    where = "cuda" if torch.cuda.is_available() else "cpu"
    record = {**provenance(), "tolerance": TOLERANCE, "workloads": found}
    path = ROOT / "results" / f"latency_promise_{where}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
