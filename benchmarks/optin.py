#!/usr/bin/env python
"""OPTIN: what scoring takes beside one whole forward pass per unit.

    python benchmarks/optin.py   # seconds per unit, of some units of every layer, in turns

On the fine-tuned classifier and SST-2; writes ``benchmarks/results/optin_speed.json``. What scores
are worth is in the comparison (docs/comparison.md).
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from accuracy import ROOT, SAMPLES, sst2
from provenance import provenance
from torch import Tensor, nn
from torch.nn import functional as F

from fastprune import Samples, find_sites, load_pretrained, load_samples
from fastprune.data.samples import model_inputs
from fastprune.device import forward_tokens, resolve_device, to_device
from fastprune.inputs import load_tokenizer
from fastprune.optin.drawing import ROWS, draw_samples
from fastprune.optin.scores import Trial
from fastprune.structure import Site, masked

RELEASED_BATCH, RELEASED_LENGTH = 128, 64
"""Samples of a batch and longest sample in the released settings for SST-2."""
ROUNDS = 2
BY_SITE = "seconds per unit by site"


def main() -> None:
    record = {**provenance(), **speed()}
    target = ROOT / "benchmarks" / "results" / "optin_speed.json"
    target.write_text(json.dumps(record, indent=2) + "\n")


class WholePasses:
    """The usual way: the whole model per unit, features seen by hooks."""

    def __init__(self, model: nn.Module, sites: list[Site], batches: list[dict[str, Tensor]]):
        self._model, self._batches = model, batches
        self._ffn = [site for site in sites if site.kind == "ffn"]
        self.dense = self.run()

    def run(self) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all layers, [samples * tokens, width] side by side, and logits."""
        features: list[list[Tensor]] = [[] for _ in self._ffn]
        with ExitStack() as stack:
            for seen, site in zip(features, self._ffn, strict=True):
                module = self._model.get_submodule(site.name)
                hook = module.register_forward_hook(
                    lambda _, __, y, seen=seen: seen.append(y.flatten(0, -2))
                )
                stack.callback(hook.remove)
            logits = [self._model(**model_inputs(batch)).logits for batch in self._batches]
        return [torch.cat(rows) for rows in features], logits

    def score(self, site: Site, unit: int, rows: int | None = None) -> float:
        """Both losses of a unit, over ``rows`` tokens that are drawn anew for every layer."""
        mask = torch.ones(site.units)
        mask[unit] = 0
        with masked(self._model, {site.name: mask}):
            features, logits = self.run()
        loss = 0.0
        for other, ours, theirs in zip(self._ffn, features, self.dense[0], strict=True):
            if other.layer <= site.layer and other != self._ffn[-1]:
                continue
            if rows is not None:
                drawn = torch.randperm(len(ours))[:rows].to(ours.device)
                ours, theirs = ours[drawn], theirs[drawn]
            ours, theirs = F.normalize(ours), F.normalize(theirs)
            loss += (theirs @ theirs.T - ours @ ours.T).square().sum().item()
        for ours, theirs in zip(logits, self.dense[1], strict=True):
            p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
            loss += 16 * (p.exp() * (p - q)).sum().item()
        return loss


@torch.no_grad()
def speed() -> dict[str, Any]:
    model, samples, device = classifier()
    sites = find_sites(model)
    drawn = draw_samples(samples, 0)
    limit = forward_tokens(model)
    released = samples.draw(RELEASED_BATCH, 0)
    (batch,) = released.batches(RELEASED_BATCH)
    ours = Trial(model, sites, drawn, tokens=limit, dtype=torch.float32)
    padded = WholePasses(model, sites, [to_device(batch, device)])
    same = WholePasses(
        model, sites, [to_device(batch, device) for batch in drawn.batches(tokens=limit)]
    )
    chosen = random.Random(0)
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(ROUNDS + 1):
        for site in sites:
            unit = chosen.randrange(site.units)
            count = min(ours.most, site.units)
            some = chosen.randrange(site.units - count + 1)
            ways: dict[str, Callable[[], object]] = {
                "released": lambda s=site, u=unit: padded.score(s, u, ROWS),
                "same samples": lambda s=site, u=unit: same.score(s, u),
                "ours": lambda s=site, u=some, n=count: ours.losses(s, slice(u, u + n)),
            }
            for way, run in ways.items():
                taken = clock(run, device) / (count if way == "ours" else 1)
                if turn:  # the first one warms up
                    seconds.setdefault(way, {}).setdefault(site.name, []).append(taken)
    medians = {
        way: {name: statistics.median(times) for name, times in found.items()}
        for way, found in seconds.items()
    }
    units = sum(site.units for site in sites)
    means = {
        way: sum(found[site.name] * site.units for site in sites) / units
        for way, found in medians.items()
    }
    record = {
        "model": "minilm-sst2",
        "units": units,
        "tokens": {
            "released, padded": RELEASED_BATCH * max(released.widths),
            "ours": sum(drawn.lengths),
        },
        "samples": {"released": RELEASED_BATCH, "ours": len(drawn)},
        "variants per pass": ours.most,
        "rounds": ROUNDS,
        "seconds per unit": means,
        "speedup": {way: means[way] / means["ours"] for way in means if way != "ours"},
        BY_SITE: medians,
    }
    print(json.dumps({key: value for key, value in record.items() if key != BY_SITE}, indent=2))
    return record


def classifier() -> tuple[nn.Module, Samples, torch.device]:
    common, _ = sst2()
    device = resolve_device()
    model: Any = load_pretrained(common["model"])
    samples = load_samples(
        common["data"],
        load_tokenizer(common["model"], model),
        model_config=model.config,
        max_length=RELEASED_LENGTH,
        limit=SAMPLES,
        seed=0,
    )
    return model.to(device).eval(), samples, device


def clock(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
