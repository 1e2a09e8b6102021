#!/usr/bin/env python
"""What the Fisher information of masks foretells of a removal, beside what the removal does.

    python benchmarks/foretold.py

Random shares of one kind of units at a time are taken from the SST-2 classifier; the divergence of
what is left is compared with the quadratic form that solution paths follow. Writes
``benchmarks/results/foretold_sst2.json``.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from provenance import ROOT, provenance
from real_model import assets
from torch import nn

from fastprune import collect_statistics, parse_budget
from fastprune.calibration.divergence import Divergence
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.pipeline import prepare
from fastprune.settings import Settings
from fastprune.spp import FisherLoss
from fastprune.structure import find_inner_sites, masked

SAMPLES = 256
SHARES = (0.02, 0.1, 0.3)
DRAWS = 3


def main() -> None:
    found = assets()
    settings = Settings(budgets=(parse_budget(0.5),), samples=SAMPLES)
    data = found / "data" / "sst2" / "train.tsv"
    prepared = prepare(str(found / "models" / "minilm-sst2"), str(data), settings)
    model, samples = prepared.model.eval(), prepared.samples
    sites = find_inner_sites(model)
    statistics = collect_statistics(
        model, samples, sites=sites, mask_gradients=True, mask_fisher=False,
        output_fisher=False, input_moments=False,
    )  # fmt: skip
    fisher = FisherLoss(statistics.gradient_rows())
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        for kind in ("qk", "v", "ffn"):
            for _ in range(DRAWS):
                masks = {site.name: torch.ones(site.units) for site in sites}
                for site in sites:
                    if site.kind == kind:
                        drawn = torch.rand(site.units, generator=generator)
                        masks[site.name] = (drawn >= share).float()
                foretold = float(fisher(torch.cat(list(masks.values()))[None]))
                found = divergence(model, samples, masks)
                rows.append({"share": share, "kind": kind, "foretold": foretold, "found": found})
                print(f"{share:4} {kind:4} {foretold:.2e} {found:.2e} {foretold / found:.2f}")
    target = ROOT / "benchmarks" / "results" / "foretold_sst2.json"
    record = {"samples": len(samples), **provenance(), "removals": rows}
    target.write_text(json.dumps(record, indent=1) + "\n")


@torch.no_grad()
def divergence(model: nn.Module, samples: Samples, masks: dict[str, torch.Tensor]) -> float:
    """Mean divergence of the masked model from the dense one."""
    loss = Divergence(samples.task, 0, temperature=1.0)
    total = 0.0
    for group in samples.groups(None, tokens=4096):
        batch = samples.collate(group)
        dense = loss.prediction(model(**model_inputs(batch)), batch)
        with masked(model, masks, find_inner_sites(model)):
            left = loss.prediction(model(**model_inputs(batch)), batch)
        total += float(loss.between(left, dense, batch).sum())
    return total / len(samples)


if __name__ == "__main__":
    main()
