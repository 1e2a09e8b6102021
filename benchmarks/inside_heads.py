#!/usr/bin/env python
"""What heads of uneven widths cost: latency beside even heads and whole heads of the same size.

    python benchmarks/inside_heads.py        # about a minute on two cores

All pruned models keep half of the query-key and value dimensions of the fine-tuned classifier, and
all filters: whole heads; the same dimensions of every head; and other numbers of dimensions in
every head, with the widest nearly whole, which is the most that padding can add. Writes
``benchmarks/results/inside_heads_<device>.json``. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from real_model import assets
from rich.console import Console
from rich.table import Table
from torch import nn

from fastprune import load_pretrained, measure_latency
from fastprune.budget import price_sites
from fastprune.budget.latency.workload import Workload
from fastprune.compaction import compact
from fastprune.structure import all_head_widths, find_inner_sites, find_sites

ROOT = Path(__file__).resolve().parent
WORKLOADS = (Workload(32, 24), Workload(8, 128), Workload(1, 24))


def variants(model: nn.Module) -> dict[str, nn.Module]:
    """Models with half of the dimensions in heads."""
    heads = [site for site in find_sites(model) if site.kind == "attention"]
    even = find_inner_sites(model, kinds=("qk", "v"), shared=True)
    uneven = find_inner_sites(model, kinds=("qk", "v"))
    widths = all_head_widths(model)[0]
    count, width = len(widths.v), widths.v[0]
    # 1, 2 … of them: half on average.
    ramp = [max(1, round(width * (2 * n + 1) / (2 * count))) for n in range(count)]
    ragged = torch.cat([torch.arange(width) < n for n in ramp])
    return {
        "dense": model,
        "half of the heads": compact(model, {s.name: _half(s.units) for s in heads}),
        "half of every head": compact(model, {s.name: _half(s.units) for s in even}, even),
        "uneven heads": compact(model, {s.name: ragged for s in uneven}, uneven),
    }


def _half(units: int) -> torch.Tensor:
    return torch.arange(units) < units // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    model = load_pretrained(assets() / "models" / "minilm-sst2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = variants(model.to(device))
    rows: list[dict[str, Any]] = []
    table = Table("model", "MACs at 128", *(str(workload) for workload in WORKLOADS))
    dense = price_sites(find_sites(model), "macs", 128).dense
    times = [
        measure_latency(models, **vars(workload), repeats=arguments.repeats, progress=False)
        for workload in WORKLOADS
    ]
    for name, variant in models.items():
        kept = price_sites(find_sites(variant), "macs", 128).dense / dense
        each = {str(w): found[name] for w, found in zip(WORKLOADS, times, strict=True)}
        rows.append({"model": name, "macs_kept": kept, "milliseconds": each})
        table.add_row(name, f"{kept:.3f}", *(f"{ms:.2f} ms" for ms in each.values()))
    Console().print(table)
    record = {**provenance(), "repeats": arguments.repeats, "models": rows}
    path = ROOT / "results" / f"inside_heads_{device}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
