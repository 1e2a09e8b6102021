#!/usr/bin/env python
"""What training under gates reaches where little is left, beside what does without training.

    python benchmarks/cofi.py [--dtype bfloat16] [--only cofi fisher] [--budgets params=0.2]
    python benchmarks/cofi.py --time    # afterwards, when nothing else runs

SST-2 and the classifier of the tests. Rows are added to
``benchmarks/results/cofi_sst2_<device>.json`` as they are finished, each with what it took and
where it was made; a row that is there already is made again. What comes out is kept below
``build/cofi``; ``--time`` measures all of it in turns with the dense model, and adds how much
faster each is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy import sst2
from provenance import ROOT, provenance
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import fastprune
from fastprune import GateTraining
from fastprune.cofi.choices import AFTERWARDS, UNDER_GATES
from fastprune.evaluation import measure_latency

BUDGETS = ("params=0.2", "params=0.1", "params=0.05")
TRAINED: dict[str, dict[str, Any]] = {
    "cofi": {},
    "cofi, no distillation": {"distillation": "none"},
    "cofi, predictions only": {"distillation": "prediction"},
    "cofi, from Fisher scores": {"start": "fisher"},
}
UNTRAINED = {"fisher": {"method": "fisher"}, "obs": {"method": "obs"}}
SEED, RATE = 0, 2e-4
BATCH, LENGTH = 32, 25
"""Sentences and tokens of a timed pass: about what SST-2's sentences have."""
MODELS = ROOT / "build" / "cofi"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=2.0, help="under gates")
    parser.add_argument("--finetune-epochs", type=float, default=2.0, help="afterwards")
    parser.add_argument("--learning-rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--dtype", default="auto", help="of the training's passes")
    parser.add_argument("--samples", type=int, help="training sentences; default: all")
    parser.add_argument("--only", nargs="+", default=[*UNTRAINED, *TRAINED], help="rows to make")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--time", action="store_true", help="time what is there; make no rows")
    options = parser.parse_args()
    if options.time:
        compare_speeds()
        return
    common, _ = sst2()
    common["seed"] = options.seed
    steps: dict[str, Any] = {"learning_rate": options.learning_rate, "save_every": 500}
    lasting: dict[str, Any] = {
        "training": replace(UNDER_GATES, epochs=options.epochs, **steps),
        "finetuning": replace(AFTERWARDS, epochs=options.finetune_epochs, **steps),
    }
    for budget in options.budgets:
        for method in options.only:
            way = dict(UNTRAINED.get(method, {"method": "cofi", "samples": options.samples}))
            name = method if options.seed == SEED else f"{method}, seed {options.seed}"
            if method in TRAINED:
                way["training"] = GateTraining(**lasting, **TRAINED[method])
                way["dtype"] = options.dtype
                if options.learning_rate != RATE:
                    name = f"{name}, rate {options.learning_rate:g}"
            record = one(common, budget, way, MODELS / budget / name)
            rows = filed()
            rows.setdefault(budget, {})[name] = record
            file(rows)
            print(budget, name, record["score"], f"{record['minutes']:.1f} min", flush=True)


def one(common: dict[str, Any], budget: str, way: dict[str, Any], out: Path) -> dict[str, Any]:
    """Prune to a budget, keep the model, and what is to be said of it."""
    start, processor = time.perf_counter(), time.process_time()
    result = fastprune.prune(budget=budget, progress=True, **common, **way)
    minutes = (time.perf_counter() - start) / 60
    result.save_pretrained(out, overwrite=True)
    report = result.report
    told = report.training and {n: v for n, v in report.training.items() if n != "history"}
    return {
        "dense": report.score.dense,
        "score": report.score.pruned,
        "params_kept": report.params.kept,
        "macs_kept": report.macs.kept,
        "units": report.units,
        "minutes": minutes,
        "processor_minutes": (time.process_time() - processor) / 60,
        "stages_s": report.timing_s,
        "training": told,
        "warnings": report.warnings,
        **provenance(),
    }


def compare_speeds() -> None:
    """Time the models of all rows in turns with the dense one."""
    rows = filed()
    kept = {(budget, name): MODELS / budget / name for budget in rows for name in rows[budget]}
    common, _ = sst2()
    models: dict[str, PreTrainedModel] = {"dense": load(Path(common["model"]))}
    models |= {f"{path}": load(path) for path in kept.values() if path.is_dir()}
    milliseconds = measure_latency(models, batch=BATCH, length=LENGTH, repeats=25)
    for (budget, name), path in kept.items():
        if f"{path}" in milliseconds:
            rows[budget][name]["speedup"] = milliseconds["dense"] / milliseconds[f"{path}"]
            rows[budget][name]["timed"] = {"batch": BATCH, "tokens": LENGTH, **provenance()}
    file(rows)


def load(path: Path) -> PreTrainedModel:
    """A classifier as its users load it."""
    return AutoModelForSequenceClassification.from_pretrained(path)


def target() -> Path:
    """Where the rows of this device are."""
    device = "cpu" if provenance()["device"] == "cpu" else "gpu"
    return ROOT / "benchmarks" / "results" / f"cofi_sst2_{device}.json"


def filed() -> dict[str, Any]:
    """The rows that are there; read anew each time, as another process may be adding its own."""
    path = target()
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def file(rows: Mapping[str, Any]) -> None:
    """Write the rows."""
    target().write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
