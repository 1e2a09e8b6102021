#!/usr/bin/env python
"""Models per minute: ``fastprune batch`` beside a loop of single ``fastprune.prune`` calls.

    python benchmarks/throughput.py                       # 10 models x 10 budgets
    python benchmarks/throughput.py --models 2 --budgets 5 --samples 256

The models are copies of the fine-tuned classifier, each with its own small noise on the weights, so
that no statistics are shared; the cache is a new, empty directory. Both sides read the model and
the data, prune and save; neither scores nor times what comes out.

A batch of one round of models and ``--naive`` single runs for each of them take turns. The single
runs are spread evenly over the budgets and stand for all of them: the loop's time is their mean
times all models and budgets, and the result says so. A batch counts from reading its job file to
its last process's end, so with the start of every process; the loop's one process has loaded
fastprune before the clock starts. A loop in a shell starts one process per run: what a start costs
is measured once per model, and added for a second comparison. Needs the assets that CONTRIBUTING.md
names. Writes ``benchmarks/results/throughput_cpu.json`` (``--out`` names another file).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from provenance import provenance
from real_model import assets

import fastprune
from fastprune.batch import run_batch
from fastprune.inputs import load_tokenizer
from fastprune.progress import calm_libraries

ROOT = Path(__file__).resolve().parent
BUDGETS = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2]
NOISE = 1e-4
"""Of the standard deviation of every weight: too little to matter, enough to be another model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--budgets", type=int, default=10, choices=range(1, 11))
    parser.add_argument("--naive", type=int, default=2, help="Single runs per model.")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--workers", type=int, help="As for fastprune batch.")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "throughput_cpu.json")
    arguments = parser.parse_args()
    calm_libraries()
    with tempfile.TemporaryDirectory(prefix="fastprune-throughput-") as folder:
        result = measure(arguments, assets(), Path(folder))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{result['batch']['models_per_minute']:.2f} models a minute, "
        f"{result['speedup']:.2f} times the loop of single runs, "
        f"{result['speedup_over_processes']:.2f} times that of single processes"
    )


def measure(arguments: argparse.Namespace, found: Path, folder: Path) -> dict[str, Any]:
    """Take turns until all models are done."""
    train = str(found / "data" / "sst2" / "train.tsv")
    models = [str(variant(found, folder, seed)) for seed in range(arguments.models)]
    budgets = spread(BUDGETS, arguments.budgets)
    singles = spread(budgets, min(arguments.naive, len(budgets)))
    at_once = arguments.workers or 1
    batch_seconds, single_seconds, start_seconds, peaks = 0.0, [], [], []
    with ProcessPoolExecutor(1, get_context("spawn"), calm_libraries) as loop:
        loop.submit(peak_bytes).result()  # by now it has loaded fastprune
        for start in range(0, len(models), at_once):
            group = models[start : start + at_once]
            job_file = write_jobs(folder, group, train, budgets, arguments.samples)
            clock = time.perf_counter()
            summary = run_batch(job_file, workers=arguments.workers)
            batch_seconds += time.perf_counter() - clock
            if summary.failed:
                raise SystemExit(f"jobs failed: {summary.failed}")
            peaks += worker_peaks(summary.out)
            for model in group:
                start_seconds.append(start_once())
                for budget in singles:
                    saved = folder / "single" / f"{Path(model).name}-{budget}"
                    run = loop.submit(prune_once, model, train, budget, arguments.samples, saved)
                    single_seconds.append(run.result())
                    print(f"{saved.name}: {single_seconds[-1]:.1f} s", flush=True)
            print(f"{start + len(group)} models: {batch_seconds:.1f} s of batches", flush=True)
        loop_peak = loop.submit(peak_bytes).result()
    count = len(models) * len(budgets)
    loop_seconds = statistics.mean(single_seconds) * count
    return {
        "models": len(models),
        "budgets": budgets,
        "samples": arguments.samples,
        "batch": {
            "workers": arguments.workers or "default",
            "seconds": batch_seconds,
            "models_per_minute": 60 * count / batch_seconds,
            "peak_gib_of_a_worker": max(peaks) / 2**30,
        },
        "loop": {
            "measured_budgets": singles,
            "seconds_of_single_runs": single_seconds,
            "seconds": loop_seconds,
            "extrapolated": f"mean of {len(single_seconds)} single runs, times {count}",
            "models_per_minute": 60 * count / loop_seconds,
            "seconds_to_start_a_process": start_seconds,
            "peak_gib": loop_peak / 2**30,
        },
        "speedup": loop_seconds / batch_seconds,
        "speedup_over_processes": (loop_seconds + statistics.mean(start_seconds) * count)
        / batch_seconds,
        **provenance(),
    }


def variant(found: Path, folder: Path, seed: int) -> Path:
    """A copy of the classifier with a little noise on every weight."""
    source = found / "models" / "minilm-sst2"
    model = fastprune.load_pretrained(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += NOISE * weight.std(correction=0) * noise
    target = folder / "models" / f"variant-{seed}"
    fastprune.save_pretrained(model, target, load_tokenizer(source, model))
    return target


def spread(values: list[float], count: int) -> list[float]:
    """``count`` of the values, evenly from both ends inwards."""
    step = len(values) / count
    return [values[int((i + 0.5) * step)] for i in range(count)]


def write_jobs(
    folder: Path, models: list[str], train: str, budgets: list[float], samples: int
) -> Path:
    path = folder / "jobs.yaml"
    jobs = {
        "out": f"batch-{Path(models[0]).name}",
        "defaults": {
            "train": train,
            "budgets": budgets,
            "samples": samples,
            "latency": False,
            "cache": "cache",
        },
        "models": models,
    }
    path.write_text(yaml.safe_dump(jobs))
    return path


def worker_peaks(out: Path) -> list[int]:
    """Peak resident bytes of the worker of every job."""
    return [json.loads(p.read_text())["peak_bytes"] for p in out.glob(".batch/*/outcome.json")]


def prune_once(model: str, train: str, budget: float, samples: int, saved: Path) -> float:
    """Seconds of one turn of the loop."""
    clock = time.perf_counter()
    result = fastprune.prune(model, train, budget, samples=samples, latency=False)
    result.save_pretrained(saved)
    return time.perf_counter() - clock


def start_once() -> float:
    """Seconds until a fresh process has loaded fastprune and ended again."""
    clock = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fastprune"], check=True)
    return time.perf_counter() - clock


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
