#!/usr/bin/env python
"""How the cost of pruning grows with samples, layers, width and budgets, against what is expected.

    python benchmarks/growth.py

Random BERT classifiers, sentences of 32 tokens. Every size is timed in turns with the others; the
exponent is the slope of log time over log size. Writes ``benchmarks/results/growth_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_pipeline import bert_base, random_samples
from measure import seconds_of
from provenance import provenance
from rich.console import Console
from rich.table import Table

from fastprune import parse_budget
from fastprune.pipeline import prune_to_budgets
from fastprune.settings import Settings

RESULTS = Path(__file__).resolve().parent / "results"
TOKENS = 32
SAMPLES, LAYERS, WIDTH = 128, 4, 384


@dataclass(frozen=True)
class Axis:
    """One thing that grows.

    Attributes:
        run: prunes at a given size.
        expected: the exponent that the mathematics gives, and why.
    """

    sizes: tuple[int, ...]
    run: Callable[[int], object]
    expected: str


def pruned(
    samples: int = SAMPLES, layers: int = LAYERS, width: int = WIDTH, budgets: int = 1
) -> Callable[[], object]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = bert_base(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 32,
    ).to(device)
    data = random_samples(samples, TOKENS)
    shares = [parse_budget(0.9 - 0.8 * (i + 1) / (budgets + 1)) for i in range(budgets)]
    settings = Settings(budgets=tuple(shares), latency=False)
    return lambda: [None for _ in prune_to_budgets(model, data, settings)]


AXES = {
    "samples": Axis(
        (128, 256, 512, 1024),
        lambda n: pruned(samples=n),
        "1 once the solves, which do not depend on them, are small",
    ),
    "layers": Axis((2, 4, 8), lambda n: pruned(layers=n), "1"),
    "width": Axis(
        (192, 384, 768),
        lambda n: pruned(width=n, samples=512),
        "2 (products of activations and weights, Grams) to 3 (solves, rearrangement)",
    ),
    "budgets": Axis(
        (1, 2, 4, 8), lambda n: pruned(budgets=n), "below 1: calibration is shared, tuning is not"
    ),
}


def measure(axis: Axis, rounds: int) -> list[float]:
    """Median seconds of every size, taken in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = [axis.run(size) for size in axis.sizes]
    for run in runs:
        run()
    times = [[seconds_of(run, device) for run in runs] for _ in range(rounds)]
    return [median(column) for column in zip(*times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    table = Table("what", "sizes", "seconds", "exponent", "expected")
    found: dict[str, dict[str, Any]] = {}
    for name, axis in AXES.items():
        seconds = measure(axis, arguments.rounds)
        slope = float(np.polyfit(np.log(axis.sizes), np.log(seconds), 1)[0])
        found[name] = {
            "sizes": axis.sizes,
            "seconds": seconds,
            "exponent": slope,
            "expected": axis.expected,
        }
        table.add_row(
            name,
            " ".join(map(str, axis.sizes)),
            " ".join(f"{value:.2f}" for value in seconds),
            f"{slope:.2f}",
            axis.expected,
        )
    where = "cuda" if torch.cuda.is_available() else "cpu"
    record = {**provenance(), "tokens": TOKENS, "axes": found}
    (RESULTS / f"growth_{where}.json").write_text(json.dumps(record, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
