#!/usr/bin/env python
"""What training under gates reaches where little is left, beside what does without training.

    python benchmarks/cofi.py [--dtype bfloat16] [--only cofi fisher] [--budgets params=0.2]

SST-2 and the classifier of the tests. Rows are added to
``benchmarks/results/cofi_sst2_<device>.json`` as they are finished, each with what it took and
where it was made; a row that is there already is made again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

from accuracy import sst2
from provenance import ROOT, provenance

import fastprune
from fastprune import GateTraining
from fastprune.cofi.choices import AFTERWARDS, UNDER_GATES

BUDGETS = ("params=0.2", "params=0.1")
TRAINED: dict[str, dict[str, Any]] = {
    "cofi": {},
    "cofi, no distillation": {"distillation": "none"},
    "cofi, predictions only": {"distillation": "prediction"},
    "cofi, from Fisher scores": {"start": "fisher"},
}
UNTRAINED = {"fisher": {"method": "fisher"}, "obs": {"method": "obs"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=2.0, help="under gates")
    parser.add_argument("--finetune-epochs", type=float, default=2.0, help="afterwards")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--dtype", default="auto", help="of the training's passes")
    parser.add_argument("--samples", type=int, help="training sentences; default: all")
    parser.add_argument("--only", nargs="+", default=[*UNTRAINED, *TRAINED], help="rows to make")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    options = parser.parse_args()
    common, _ = sst2()
    device = "cpu" if provenance()["device"] == "cpu" else "gpu"
    target = ROOT / "benchmarks" / "results" / f"cofi_sst2_{device}.json"
    steps: dict[str, Any] = {"learning_rate": options.learning_rate, "save_every": 500}
    lasting = {
        "training": replace(UNDER_GATES, epochs=options.epochs, **steps),
        "finetuning": replace(AFTERWARDS, epochs=options.finetune_epochs, **steps),
    }
    for budget in options.budgets:
        for name in options.only:
            way = dict(UNTRAINED.get(name, {"method": "cofi", "samples": options.samples}))
            if name in TRAINED:
                way["training"] = GateTraining(**lasting, **TRAINED[name])
                way["dtype"] = options.dtype
            record = one(common, budget, way)
            # Read again: another process may be adding rows of its own.
            rows = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
            rows.setdefault(budget, {})[name] = record
            target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            print(budget, name, record["score"], f"{record['minutes']:.1f} min", flush=True)


def one(common: dict[str, Any], budget: str, way: dict[str, Any]) -> dict[str, Any]:
    """Prune to a budget, and what came out."""
    start, processor = time.perf_counter(), time.process_time()
    report = fastprune.prune(budget=budget, progress=True, **common, **way).report
    minutes = (time.perf_counter() - start) / 60
    assert report.latency_ms is not None
    return {
        "dense": report.score.dense,
        "score": report.score.pruned,
        "params_kept": report.params.kept,
        "macs_kept": report.macs.kept,
        "units": report.units,
        "speedup": report.latency_ms.speedup,
        "latency": f"{report.latency_ms.batch} x {report.latency_ms.length} tokens",
        "minutes": minutes,
        "processor_minutes": (time.process_time() - processor) / 60,
        "stages_s": report.timing_s,
        "training": report.training,
        "warnings": report.warnings,
        **provenance(),
    }


if __name__ == "__main__":
    main()
