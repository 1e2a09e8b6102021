#!/usr/bin/env python
"""How far results of several processes are from those of one.

    python benchmarks/data_parallel.py        # minutes on two cores

Prunes the fine-tuned classifier to half its MACs in one process and in two that torchrun connects,
each with two sizes of batch, and compares logits on the validation sentences. Writes
``benchmarks/results/data_parallel_cpu.json``. Needs the assets that CONTRIBUTING.md names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from real_model import assets

import fastprune
from fastprune.compaction.directories import read_report
from fastprune.evaluation.predict import predict
from fastprune.inputs import load_tokenizer

ROOT = Path(__file__).resolve().parent
ONE = [sys.executable, "-m", "fastprune"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RUNS = {
    "one": (ONE, []),
    "other-batches": (ONE, ["--batch-size", "16"]),
    "two": ([*TWO, "-m", "fastprune"], []),
    "two-other-batches": ([*TWO, "-m", "fastprune"], ["--batch-size", "16"]),
}
PAIRS = [("one", "two"), ("other-batches", "two-other-batches"), ("one", "other-batches")]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fastprune-data-parallel-") as folder:
        result = measure(assets(), Path(folder))
    path = ROOT / "results" / "data_parallel_cpu.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["pairs"], indent=2))


def measure(found: Path, folder: Path) -> dict[str, Any]:
    """Make all models, then compare."""
    source, data = found / "models" / "minilm-sst2", found / "data" / "sst2"
    what = ["prune", source, "--train", data / "train.tsv", "--eval", data / "validation.tsv"]
    for name, (program, options) in RUNS.items():
        command = [*program, *what, "--budget", "macs=0.5", "--quiet", *options]
        subprocess.run([*map(str, command), "--out", str(folder / name)], check=True)
    model = fastprune.load_pretrained(source)
    samples = fastprune.load_samples(
        str(data / "validation.tsv"), load_tokenizer(source, model), model_config=model.config
    )
    reports = {name: read_report(folder / name) or {} for name in RUNS}
    logits = {
        name: np.stack(predict(fastprune.load_pretrained(folder / name), samples, progress=False))
        for name in RUNS
    }
    return {
        "accuracy": {name: report["pruned"]["score"] for name, report in reports.items()},
        "largest_logit": float(max(np.abs(rows).max() for rows in logits.values())),
        "pairs": {
            f"{one}, {other}": compare(
                *(reports[n]["units"] for n in (one, other)), *(logits[n] for n in (one, other))
            )
            for one, other in PAIRS
        },
        **provenance(),
    }


def compare(
    units: dict[str, list[int]], others: dict[str, list[int]], ours: np.ndarray, theirs: np.ndarray
) -> dict[str, Any]:
    """How far two models are apart."""
    return {
        "units_per_layer_differ_by": {
            kind: int(np.abs(np.subtract(units[kind], others[kind])).sum()) for kind in units
        },
        "logits_differ_by": float(np.abs(ours - theirs).max()),
        "predictions_changed": int((ours.argmax(1) != theirs.argmax(1)).sum()),
        "samples": len(ours),
    }


if __name__ == "__main__":
    main()
