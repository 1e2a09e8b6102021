"""Latency tables with known numbers, and a clock that shows them, for any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastprune import LatencyTable, find_sites
from fastprune.budget.latency import Place, Shape, SublayerLatency
from fastprune.budget.latency.workload import Workload
from fastprune.evaluation.latency import PassTimer
from fastprune.structure import layer_units


def by_heads(n: int) -> float:
    return 0.3 + 0.2 * n if n else 0.0


def by_filters(n: int) -> float:
    return 0.1 + 0.01 * n if n else 0.0


def known_table(
    model: Any,
    attention: Callable[[int], float] = by_heads,
    ffn: Callable[[int], float] = by_filters,
    fixed: float = 5.0,
    spread: float = 0.0,
) -> LatencyTable:
    """A table of every unit count, as functions give it."""
    sites = find_sites(model)
    shapes = {Shape.of(site): site.units for site in sites}
    functions = {"attention": attention, "ffn": ffn}
    sublayers = tuple(
        SublayerLatency(
            shape,
            tuple(range(1, units + 1)),
            tuple(functions[shape.kind](n) for n in range(1, units + 1)),
        )
        for shape, units in shapes.items()
    )
    dense = fixed + sum(functions[site.kind](site.units) for site in sites)
    return LatencyTable(
        architecture=type(model).__name__,
        layers=len(layer_units(model)["attention"]),
        workload=Workload(2, 8, torch.float32),
        place=Place.of(model),
        fixed_ms=fixed,
        dense_ms=dense,
        parts=1.0,
        spread=spread,
        sublayers=sublayers,
        date="2026-01-01T00:00:00+00:00",
        fastprune="0.1.0",
    )


def known_ms(model) -> float:
    """What a model takes on the clock of these tests: embeddings, layers and sublayers."""
    units = layer_units(model)
    sublayers = sum(map(by_heads, units["attention"])) + sum(map(by_filters, units["ffn"]))
    return 2.0 + 1.0 * len(units["ffn"]) + sublayers


class KnownClock(PassTimer):
    """Runs every model, and then says what it is supposed to take, give or take a slow round."""

    def round(self, after_each=lambda: None):
        super().round(after_each)
        slow = 1.5 if self._rounds % 3 == 0 else 1.0
        return np.array([slow * known_ms(model) / 1e3 for model in self._models])
