#!/usr/bin/env python
"""Whether choosing again on the pruned model's own statistics pays.

    python benchmarks/reselection.py

``method="obs"`` looks at the dense model once. Here, each sublayer's units are chosen anew when the
walk of tuning reaches it, from statistics of the model as it is by then: earlier sublayers pruned
and tuned, later ones whole. How many units each keeps stays as it was. That takes a forward and
backward pass for every sublayer and budget. Writes ``benchmarks/results/reselection_sst2.json``.
"""

from __future__ import annotations

import json
import time

from accuracy import ROOT, SAMPLES
from provenance import provenance
from robustness import SEEDS, classifier, divergence, log_probabilities
from torch import Tensor, nn

from fastprune import Samples, collect_statistics, compact, evaluate, find_sites, parse_budget
from fastprune.budget import price_sites
from fastprune.compaction.surgery import shrink_
from fastprune.selection import Paths, RemovalPath
from fastprune.selection.obs import removal_paths
from fastprune.selection.packed import split_packed
from fastprune.structure import Site
from fastprune.tuning import TUNERS, Tuner, tune

BUDGETS = (0.5, 0.3, 0.2)


def main() -> None:
    model, pool, scored, held_out = classifier()
    dense = log_probabilities(model, held_out)
    runs = []
    for seed in SEEDS:
        samples = pool.draw(SAMPLES, seed)
        paths = paths_of(model, samples, seed)
        prices = price_sites(find_sites(model), "macs", samples.mean_length)
        for budget in BUDGETS:
            (mask,) = Paths(paths).masks(prices, [parse_budget(budget)])
            masks = split_packed(mask, prices.sites)
            for name, prune in (("once", once), ("again", again)):
                start = time.perf_counter()
                pruned = prune(model, samples, seed, masks)
                seconds = time.perf_counter() - start
                run = {
                    "seed": seed,
                    "budget": budget,
                    "chosen": name,
                    "seconds": seconds,
                    "score": evaluate(pruned, scored, progress=False),
                    "divergence": divergence(dense, log_probabilities(pruned, held_out)),
                }
                print(run)
                runs.append(run)
    target = ROOT / "benchmarks" / "results" / "reselection_sst2.json"
    target.write_text(json.dumps({**provenance(), "runs": runs}, indent=2) + "\n")


def paths_of(
    model: nn.Module, samples: Samples, seed: int, sites: list[Site] | None = None
) -> list[RemovalPath]:
    sites = find_sites(model) if sites is None else sites
    statistics = collect_statistics(model, samples, sites=sites, mask_fisher=False, seed=seed)
    return removal_paths(model, sites, statistics)


def once(model: nn.Module, samples: Samples, seed: int, masks: dict[str, Tensor]) -> nn.Module:
    student = compact(model, masks)
    tune(model, student, samples, tuner())
    return student


def again(model: nn.Module, samples: Samples, seed: int, masks: dict[str, Tensor]) -> nn.Module:
    student = compact(model, {})

    def choose(site: Site) -> None:
        (path,) = paths_of(student, samples, seed, [site])
        shrink_(student, {site.name: path.mask(int(masks[site.name].sum()))})

    tune(model, student, samples, tuner(), approach=choose)
    return student


def tuner() -> Tuner:
    found = TUNERS["weights"]
    assert found is not None
    return found


if __name__ == "__main__":
    main()
