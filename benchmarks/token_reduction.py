#!/usr/bin/env python
"""Accuracy and latency of a vision transformer over budgets that fewer tokens meet.

    python examples/digits.py digits
    python benchmarks/token_reduction.py digits

Schedules of equal MACs side by side: ``scored``, from what the model loses with each token;
``even``, the same number of tokens less in every block; ``random``, from random scores, five times.
All merge at run time in the same way. Writes ``benchmarks/results/token_reduction_<device>.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import ROOT, provenance
from torch import nn

import fastprune
from fastprune import Samples, parse_budget
from fastprune.data.samples import model_inputs
from fastprune.merging.reduction import fewest, token_counts
from fastprune.structure import Site, find_sites
from fastprune.tokens.reduce import with_schedule_
from fastprune.tokens.schedule import find_schedule, macs_at
from fastprune.tokens.scores import score_tokens

BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.55)
SEEDS = range(5)
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", type=Path, help="what examples/digits.py has made")
    parser.add_argument("--name", default="token_reduction", help="of the file with the results")
    arguments = parser.parse_args()
    model = fastprune.load_pretrained(arguments.digits / "model")
    train, held_out = (
        fastprune.load_samples(
            str(arguments.digits / f"{split}.parquet"), model_config=model.config, progress=False
        )
        for split in ("train", "validation")
    )
    dense = probabilities(model, held_out)
    seconds, importance = [], []
    for seed in SEEDS:
        start = time.perf_counter()
        importance.append(score_tokens(model, train, seed=seed))
        seconds.append(time.perf_counter() - start)
    sites, (tokens, special) = find_sites(model), token_counts(model)
    whole = macs_at(sites, [tokens] * len(importance[0]))
    runs = []
    models: dict[str, nn.Module] = {"dense": model}
    for budget in BUDGETS:
        for name, seed, schedule in schedules(importance, sites, budget, special):
            reduced = with_schedule_(copy.deepcopy(model), schedule)
            run: dict[str, Any] = {
                "budget": budget,
                "schedule": name,
                "seed": seed,
                "tokens": schedule,
                "macs": macs_at(sites, schedule) / whole,
                "accuracy": fastprune.evaluate(reduced, held_out, progress=False),
                "divergence": divergence(dense, probabilities(reduced, held_out)),
            }
            print(run)
            runs.append(run)
            if name == "scored" and seed == 0:
                models[str(budget)] = reduced
    length = tokens
    latency = fastprune.measure_latency(
        models, batch=BATCH, length=length, repeats=30, progress=False
    )
    print(latency)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {
        **provenance(),
        "images": len(held_out),
        "batch": BATCH,
        "dense_accuracy": fastprune.evaluate(model, held_out, progress=False),
        "scoring_s": seconds,
        "latency_ms": latency,
        "runs": runs,
    }
    target = ROOT / "benchmarks" / "results" / f"{arguments.name}_{device}.json"
    target.write_text(json.dumps(found, indent=2) + "\n")


def schedules(
    importance: list[np.ndarray[Any, Any]], sites: list[Site], budget: float, special: int
) -> Iterator[tuple[str, int, list[int]]]:
    """Name, seed and schedule of every contestant."""
    limit = parse_budget({"macs": budget})
    layers, patches = importance[0].shape
    yield "even", 0, even(sites, budget, layers, patches, special)
    for seed in SEEDS:
        yield "scored", seed, find_schedule(importance[seed], sites, limit, special)
        drawn = np.random.default_rng(seed).random((layers, patches))
        yield "random", seed, find_schedule(drawn, sites, limit, special)


def even(sites: list[Site], budget: float, layers: int, patches: int, special: int) -> list[int]:
    """The same number of tokens less in every block, as nearly as whole numbers allow."""
    dense = macs_at(sites, [patches + special] * layers)
    for step in np.arange(0, patches, 1 / 64):
        counts = [patches]
        for layer in range(1, layers):
            counts.append(max(patches - round(float(step) * layer), fewest(counts[-1])))
        schedule = [count + special for count in counts]
        if macs_at(sites, schedule) <= budget * dense:
            return schedule
    raise ValueError(f"{budget} is out of reach")


@torch.no_grad()
def probabilities(model: nn.Module, samples: Samples) -> torch.Tensor:
    """float64 [samples, classes], in the samples' order."""
    logits = [
        model(**model_inputs(batch)).logits.double()
        for batch in samples.batches(BATCH, bucketed=False)
    ]
    return torch.cat(logits).softmax(-1)


def divergence(dense: torch.Tensor, reduced: torch.Tensor) -> float:
    """Kullback-Leibler, mean over samples."""
    return float((dense * (dense / reduced).log()).sum(-1).mean())


if __name__ == "__main__":
    main()
