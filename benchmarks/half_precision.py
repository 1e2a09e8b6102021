#!/usr/bin/env python
"""What half precision changes: the ranking of units, the masks, and the accuracy in the end.

    python benchmarks/half_precision.py

The fine-tuned classifier in ``FASTPRUNE_ASSETS``, 2,048 samples, seed 0. Writes
``benchmarks/results/half_precision.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accuracy import BUDGETS, SAMPLES
from provenance import provenance
from real_model import assets
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from fastprune import collect_statistics, find_sites, load_pretrained, load_samples, parse_budget
from fastprune.inputs import load_tokenizer
from fastprune.pipeline import prune_to_budgets
from fastprune.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    found = assets()
    path = str(found / "models" / "minilm-sst2")
    model = load_pretrained(path)
    tokenizer = load_tokenizer(path, model)
    train, held_out = (
        load_samples(
            found / "data" / "sst2" / name, tokenizer, model_config=model.config, **options
        )
        for name, options in (
            ("train.tsv", {"limit": SAMPLES}),
            ("validation.tsv", {"split": "eval"}),
        )
    )
    importances = {
        name: collect_statistics(model, train, dtype=dtype).importance().double()
        for name, dtype in DTYPES.items()
    }
    record: dict[str, Any] = {**provenance(), "spearman": rank_correlations(model, importances)}
    record["pruned"] = {
        name: prune(model, train, held_out, dtype) for name, dtype in DTYPES.items()
    }
    record["units_alike"] = alike(*(record["pruned"][name] for name in DTYPES))
    for rows in record["pruned"].values():
        for row in rows:
            del row["kept"]
    target = ROOT / "benchmarks" / "results" / "half_precision.json"
    target.write_text(json.dumps(record, indent=2) + "\n")
    print_tables(record)


def rank_correlations(model: Any, importances: dict[str, torch.Tensor]) -> dict[str, float]:
    """Spearman correlation of the two importances: of all units, and the lowest of any site."""
    ours, theirs = importances.values()
    sizes = [site.units for site in find_sites(model)]
    by_site = zip(ours.split(sizes), theirs.split(sizes), strict=True)
    return {
        "all units": float(spearmanr(ours, theirs).statistic),
        "worst site": min(float(spearmanr(a, b).statistic) for a, b in by_site),
    }


def prune(model: Any, train: Any, held_out: Any, dtype: torch.dtype) -> list[dict[str, Any]]:
    settings = Settings(budgets=tuple(map(parse_budget, BUDGETS)), latency=False, dtype=dtype)
    return [
        {
            "budget": result.report.budget,
            "score": result.report.score.pruned,
            "kept": torch.cat(list(result.masks.values())).bool(),
        }
        for result in prune_to_budgets(model, train, settings, eval_data=held_out)
    ]


def alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the units about which both decided the same, by budget."""
    pairs = zip(ours, theirs, strict=True)
    return {a["budget"]: float((a["kept"] == b["kept"]).double().mean()) for a, b in pairs}


def print_tables(record: dict[str, Any]) -> None:
    console = Console()
    console.print(record["spearman"])
    table = Table("budget", *DTYPES, "units decided alike")
    for i, (budget, share) in enumerate(record["units_alike"].items()):
        scores = (f"{rows[i]['score']:.4f}" for rows in record["pruned"].values())
        table.add_row(budget, *scores, f"{share:.4f}")
    console.print(table)


if __name__ == "__main__":
    main()
