#!/usr/bin/env python
"""What training adds: a searched path beside one without, and fine-tuning after each way to prune.

    python benchmarks/finetuning.py [--steps 1500] [--finetune 250]

SST-2 and the classifier of the tests. SPP's search takes ``--steps`` batches of 32 training
sentences; the models it and the retraining-free ways give are then trained for ``--finetune``
batches, all alike.
Writes ``benchmarks/results/finetuning_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from accuracy import sst2
from provenance import ROOT, provenance

import fastprune

BUDGETS = ("macs=0.5", "macs=0.3")
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500, help="of the search")
    parser.add_argument("--finetune", type=int, default=250, help="steps of every fine-tuning")
    options = parser.parse_args()
    common, _ = sst2()
    model, train, held_out = common["model"], common["data"], common["eval_data"]
    record: dict[str, Any] = {**provenance(), "batch": BATCH, "finetune_steps": options.finetune}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "path.json"
        start, processor = time.perf_counter(), time.process_time()
        found = fastprune.search_path(
            model, train, path, samples=options.steps * BATCH, batch_size=BATCH, progress=True
        )
        record["search"] = {
            "steps": found.origin["steps"],
            "entered": found.entered,
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - processor,
        }
        print(record["search"])
        ways: dict[str, dict[str, Any]] = {
            "spp, searched": {"method": "spp", "path": path},
            "spp": {"method": "spp"},
            "fisher": {"method": "fisher"},
        }
        record["results"] = {name: {} for name in ways}
        for name, way in ways.items():
            for budget in BUDGETS:
                row = one(model, train, held_out, budget, way, options.finetune, Path(directory))
                record["results"][name][budget] = row
                print(name, budget, row, flush=True)
    device = "cpu" if record["device"] == "cpu" else "gpu"
    target = ROOT / "benchmarks" / "results" / f"finetuning_{device}.json"
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def one(
    model: Any, train: Any, held_out: Any, budget: str, way: dict[str, Any], steps: int, out: Path
) -> dict[str, float | None]:
    """Accuracies of a budget: untuned, tuned, and trained from the tuned model on."""
    options = {**way, "eval_data": held_out, "latency": False}
    untuned = fastprune.prune(model, train, budget, tune="none", **options)
    tuned = fastprune.prune(model, train, budget, **options)
    pruned, trained = out / "pruned", out / "trained"
    tuned.save_pretrained(pruned, overwrite=True)
    start = time.perf_counter()
    found = fastprune.finetune(
        pruned, train, trained, eval_data=held_out, epochs=1, samples=steps * BATCH, overwrite=True
    )
    return {
        "untuned": untuned.report.score.pruned,
        "tuned": tuned.report.score.pruned,
        "trained": found.after,
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    main()
