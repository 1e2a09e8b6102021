#!/usr/bin/env python
"""How results depend on the draw and on the number of calibration samples.

    python benchmarks/robustness.py sst2          # fine-tuned classifier
    python benchmarks/robustness.py embeddings    # sentence encoder of the demo

Three seeds for each number of samples; means and standard deviations of the score, and for the
classifier of the divergence from the dense model, on sentences that neither calibration nor any
score looks at. Writes ``benchmarks/results/robustness_<case>.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from accuracy import BUDGETS, ROOT, sst2
from provenance import provenance
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fastprune import Samples, load_samples, parse_budget
from fastprune.data.samples import model_inputs
from fastprune.demo import encoder_directory, text_corpus
from fastprune.device import batch_tokens
from fastprune.inputs import load_model, load_tokenizer
from fastprune.pipeline import prune_to_budgets
from fastprune.settings import Settings

METHODS = ("obs", "fisher")
SAMPLES = (256, 512, 1024, 2048, 8192)
SEEDS = (0, 1, 2)
HELD_OUT = 3000
"""Training sentences kept from calibration: what choices are made on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=("sst2", "embeddings"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    case = arguments.case
    model, pool, scored, held_out = CASES[case]()
    dense = None if held_out is None else log_probabilities(model, held_out)
    runs = []
    for method in arguments.methods:
        for samples in SAMPLES:
            for seed in SEEDS:
                settings = Settings(
                    budgets=tuple(map(parse_budget, BUDGETS)),
                    method=method,
                    samples=samples,
                    seed=seed,
                    latency=False,
                )
                for result in prune_to_budgets(model, pool, settings, eval_data=scored):
                    report = result.report
                    used = len(report.sample_ids)
                    assert used == samples, f"the data hold {used} samples, not {samples}"
                    run = {"method": method, "samples": samples, "seed": seed}
                    run |= {"budget": report.budget, "score": report.score.pruned}
                    if dense is not None and held_out is not None:
                        run["divergence"] = divergence(
                            dense, log_probabilities(result.model, held_out)
                        )
                    runs.append(run)
                print(
                    method,
                    samples,
                    seed,
                    [run["score"] for run in runs[-len(BUDGETS) :]],
                    flush=True,
                )
    target = ROOT / "benchmarks" / "results" / f"robustness_{case}.json"
    record = {"case": case, **provenance(), "runs": runs, "summary": summary(runs)}
    target.write_text(json.dumps(record, indent=2) + "\n")
    print_tables(record["summary"])


def classifier() -> tuple[nn.Module, Samples, Samples, Samples]:
    """Model, pool to calibrate from, scored samples, and others for the divergence."""
    paths, _ = sst2()
    model = load_model(paths["model"])
    tokenizer = load_tokenizer(paths["model"], model)
    train, scored = (
        load_samples(paths[key], tokenizer, model_config=model.config, split=split)
        for key, split in (("data", "train"), ("eval_data", "eval"))
    )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(123)).tolist()
    return model, train.select(order[HELD_OUT:]), scored, train.select(order[:HELD_OUT])


def encoder() -> tuple[nn.Module, Any, Any, None]:
    """The same for sentence embeddings, whose score needs no labels."""
    model = load_model(str(encoder_directory()))
    tokenizer = load_tokenizer(str(encoder_directory()), model)
    train, scored = (
        load_samples(sentences, tokenizer, model_config=model.config, task="embedding")
        for sentences in text_corpus(calibration=max(SAMPLES), heldout=1024, seed=0)
    )
    return model, train, scored, None


CASES = {"sst2": classifier, "embeddings": encoder}


@torch.no_grad()
def log_probabilities(model: nn.Module, samples: Samples) -> Tensor:
    """float64 [samples, classes], in the order of the samples."""
    rows: list[Tensor] = [torch.empty(0)] * len(samples)
    for group in samples.groups(tokens=batch_tokens(model)):
        logits = model(**model_inputs(samples.collate(group))).logits
        for position, row in zip(group, logits.double().log_softmax(-1), strict=True):
            rows[position] = row
    return torch.stack(rows)


def divergence(dense: Tensor, pruned: Tensor) -> float:
    """Mean Kullback-Leibler divergence in nats."""
    return float((dense.exp() * (dense - pruned)).sum(-1).mean())


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        rows.setdefault((run["method"], run["samples"], run["budget"]), []).append(run)
    found = []
    for (method, samples, budget), some in rows.items():
        row = {"method": method, "samples": samples, "budget": budget}
        for key in ("score", "divergence"):
            values = [run[key] for run in some if key in run]
            if values:
                row[key] = [statistics.mean(values), statistics.stdev(values)]
        found.append(row)
    return found


def print_tables(rows: list[dict[str, Any]]) -> None:
    console = Console()
    for key in ("score", "divergence"):
        table = Table("method", "samples", *(f"{budget:g}" for budget in BUDGETS), title=key)
        for method in METHODS:
            for samples in SAMPLES:
                cells = [
                    f"{row[key][0]:.4f} ± {row[key][1]:.4f}"
                    for row in rows
                    if (row["method"], row["samples"]) == (method, samples) and key in row
                ]
                if cells:
                    table.add_row(method, str(samples), *cells)
        if any(key in row for row in rows):
            console.print(table)


if __name__ == "__main__":
    main()
