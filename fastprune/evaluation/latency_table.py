"""Measuring a latency table: models in turns, that differ in one kind of sublayer.

What a sublayer takes is the difference to the same model without it, per layer. Models are whole
ones, embeddings and head included, and the other kind of sublayer is there with half its units, as
it will be in a pruned model: alone, a sublayer would find its caches warmer than it ever will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastprune.budget.latency.place import Place
from fastprune.budget.latency.sublayer import Shape, SublayerLatency
from fastprune.budget.latency.table import LatencyTable
from fastprune.budget.latency.workload import Workload
from fastprune.errors import FastpruneError, LatencyTableError
from fastprune.evaluation.latency import PassTimer
from fastprune.evaluation.stacks import narrowed, stacked
from fastprune.merging.reduction import refuse_reduced
from fastprune.progress import progress_bar
from fastprune.structure.declaration import anatomy
from fastprune.structure.site import Site, SiteKind
from fastprune.structure.sites import find_sites, layer_units
from fastprune.version import __version__

_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 30.0, 5, 25
"""Measuring goes on for about so long, but for no fewer and no more rounds than these."""
_POINTS, _POINTS_COMPILED = 12, 4
"""Into how many steps the units of a sublayer are divided. Every variant is compiled anew."""
_LEAST_MS = 1e-6
"""Of a sublayer with units, so that only dropping it is free."""


def measure_latency_table(
    model: nn.Module,
    *,
    batch: int = 32,
    length: int = 128,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    rounds: int | None = None,
    progress: bool = True,
) -> LatencyTable:
    """Measure what the sublayers of ``model`` take on the device where it is.

    Args:
        model: any model with a declaration, pruned ones included; it is not changed.
        batch: samples per pass.
        length: tokens per sample; images have the size of the model's configuration.
        dtype: ``bfloat16`` or ``float16`` runs under autocast, ``float32`` in the weights' type.
        compiled: put the models through ``torch.compile`` first.
        rounds: passes of every variant; by default for half a minute, but between 5 and 25.
        progress: show a progress bar.

    Raises:
        UnsupportedModelError: no declaration fits.
        LatencyTableError: times from which no table can be made.
        FastpruneError: inputs that the model cannot take, tokens that are reduced, or a compiler
            that fails.
    """
    if rounds is not None and rounds < 1:
        raise FastpruneError("rounds of a latency table must be 1 or more")
    sites = find_sites(model)
    if not sites:
        raise LatencyTableError("no heads or filters are left in this model to measure")
    refuse_reduced(model, "measure a table of a model with all its tokens")
    workload = Workload(batch, length, dtype, compiled)
    workload = replace(workload, length=workload.tokens(model))
    nothing: dict[SiteKind, int] = {"attention": 0, "ffn": 0}
    variants = [model, narrowed(model, nothing)]
    series = [_Series.of(model, site, variants, compiled) for site in _widest(sites)]
    anchors = [0, 1, *(entry.first - 1 for entry in series)]
    order = _order(len(variants), anchors)
    times = _time([variants[i] for i in order], workload, rounds, progress)
    typical, spread = _typical(times, order)
    milliseconds = 1e3 * typical
    dense, fixed = milliseconds[:2].tolist()
    sublayers = [entry.latency(milliseconds) for entry in series]
    parts = sum(
        float(entry.curve(site.units)[-1])
        for site in sites
        for entry in sublayers
        if entry.shape == Shape.of(site)
    )
    if not 0 < fixed < dense or parts <= len(sites) * _LEAST_MS:
        raise LatencyTableError(
            f"a pass of {workload} is too short to tell its sublayers from noise ({dense:.3g} ms); "
            "measure with a larger batch or length, on a quiet machine"
        )
    scale = (dense - fixed) / parts
    return LatencyTable(
        architecture=type(model).__name__,
        layers=len(anatomy(model).blocks),
        workload=workload,
        place=Place.of(model),
        fixed_ms=fixed,
        dense_ms=dense,
        parts=(fixed + parts) / dense,
        spread=spread,
        sublayers=tuple(
            replace(entry, milliseconds=tuple(scale * ms for ms in entry.milliseconds))
            for entry in sublayers
        ),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fastprune=__version__,
    )


@dataclass(frozen=True)
class _Series:
    """Variants that differ in the units of one shape.

    Attributes:
        shape: of the units.
        units: one number per variant.
        first: where their models stand among all; the one before has none of these units.
        layers: of each of these models.
    """

    shape: Shape
    units: tuple[int, ...]
    first: int
    layers: int

    @classmethod
    def of(cls, model: nn.Module, site: Site, variants: list[Any], compiled: bool) -> _Series:
        """Add the models of a series to ``variants``."""
        stack = stacked(model, site.block)
        other: SiteKind = "ffn" if site.kind == "attention" else "attention"
        here = layer_units(stack)
        if here[other][0]:
            stack = narrowed(stack, {other: -(-here[other][0] // 2)})
        units = counts_to_measure(site.units, site.kind, _POINTS_COMPILED if compiled else _POINTS)
        first = len(variants) + 1
        variants += [narrowed(stack, {site.kind: n}) for n in (0, *units)]
        return cls(Shape.of(site), units, first, len(here[other]))

    def latency(self, milliseconds: NDArray[np.float64]) -> SublayerLatency:
        """What one sublayer takes.

        A step down from fewer units to more is noise, or cannot be told from it, and a search
        would go where the noise is luckiest: the best rising curve takes its place.
        """
        times = milliseconds[self.first : self.first + len(self.units)]
        each = (times - milliseconds[self.first - 1]) / self.layers
        from sklearn.isotonic import IsotonicRegression  # scikit-learn takes long to import

        rising = IsotonicRegression(y_min=_LEAST_MS).fit_transform(self.units, each)
        return SublayerLatency(self.shape, self.units, tuple(rising.tolist()))


def counts_to_measure(units: int, kind: SiteKind, points: int = _POINTS) -> tuple[int, ...]:
    """Numbers of units to measure: all of a few, else steps that hardware likes, and small ones.

    Args:
        units: of the sublayer.
        kind: filters go by multiples of 64 where there are many, else of 8.
        points: about how many steps.
    """
    if units <= points + 4:
        return tuple(range(1, units + 1))
    quantum = 1 if kind == "attention" else 64 if units >= 64 * points else 8
    step = -(-units // (points * quantum)) * quantum
    small = [1] if kind == "attention" else [1, 8, *(2**i for i in range(5, step.bit_length()))]
    steps = range(step, units, step)
    return tuple(sorted({n for n in (*small, *steps, units) if n <= units}))


def _widest(sites: Sequence[Site]) -> list[Site]:
    """Of every shape of unit, the first of the sites that have most of them."""
    widest: dict[Shape, Site] = {}
    for site in sites:
        shape = Shape.of(site)
        if shape not in widest or site.units > widest[shape].units:
            widest[shape] = site
    return list(widest.values())


def _time(
    variants: Sequence[nn.Module], workload: Workload, rounds: int | None, progress: bool
) -> NDArray[np.float64]:
    """Seconds of every pass: [rounds, variants]."""
    timer = PassTimer(variants, workload)
    with progress_bar(
        "measure latency table", total=len(variants), enabled=progress, unit="pass"
    ) as bar:
        after_each: Callable[[], object] = bar.update
        timer.round(after_each)  # warms up, and compiles
        bar.reset(total=len(variants))
        times = [timer.round(after_each)]
        if rounds is None:
            fitting = round(_SECONDS / (2 * float(times[0].sum())))  # half the passes are untimed
            rounds = min(max(fitting, _LEAST_ROUNDS), _MOST_ROUNDS)
        bar.total = rounds * len(variants)
        times += [timer.round(after_each) for _ in range(rounds - 1)]
    return np.stack(times)


def _order(count: int, anchors: Sequence[int]) -> list[int]:
    """Which variant is timed when in a round.

    Anchors, which many differences are taken from, come three times: their noise is everybody's.
    """
    others = [i for i in range(count) if i not in anchors]
    half = len(others) // 2
    return [*anchors, *others[:half], *anchors, *others[half:], *anchors]


def _typical(times: NDArray[np.float64], order: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """What every variant takes: the median of the faster half of its passes.

    Whatever else a machine does makes passes slower, never faster.

    Args:
        times: [rounds, passes].
        order: which variant every pass was of.

    Returns:
        [variants], and how much slower passes were in the middle of all cases, as a share.
    """
    which = np.asarray(order)
    typical = np.array([np.quantile(times[:, which == i], 0.25) for i in range(which.max() + 1)])
    return typical, max(0.0, float(np.median(times / typical[which])) - 1)
