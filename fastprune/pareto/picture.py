"""The picture of a sweep: score against what each model costs."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastprune.pareto.curve import Cost, Sweep

_LABELS: dict[Cost, str] = {
    "macs": "MACs kept, prunable part",
    "params": "parameters kept, whole model",
    "latency": "latency, ms, measured",
}


def draw(sweep: Sweep) -> Figure:
    """Score against MACs, parameters and, where it was measured, latency.

    Filled points are those that no other beats; the dense model is a square.

    Raises:
        FastpruneError: nothing was scored.
    """
    costs: list[Cost] = ["macs", "params"]
    if all(point.latency is not None for point in sweep.points):
        costs.append("latency")
    # Without pyplot: no window, and no state that others share.
    figure = Figure(figsize=(4.2 * len(costs), 3.6), layout="constrained")
    for axes, cost in zip(figure.subplots(1, len(costs), sharey=True), costs, strict=True):
        _panel(axes, sweep, cost)
    figure.axes[0].set_ylabel(sweep.metric or "")
    return figure


def _panel(axes: Axes, sweep: Sweep, cost: Cost) -> None:
    best = sorted(((getattr(p, cost), p.score) for p in sweep.pareto(cost)), key=lambda at: at[0])
    axes.plot(*_columns(best), "-o", color="C0", markersize=5, label="pruned")
    beaten = [(getattr(p, cost), p.score) for p in sweep.points]
    beaten = [at for at in beaten if at not in best]
    axes.plot(*_columns(beaten), "o", color="C0", markersize=5, markerfacecolor="none")
    if sweep.dense_score is not None:
        measured = sweep.points[0].report["latency_ms"]
        dense = measured["dense"] if cost == "latency" else 1.0
        axes.plot([dense], [sweep.dense_score], "s", color="C1", markersize=6, label="dense")
        axes.axhline(sweep.dense_score, color="C1", linewidth=0.6, linestyle=":")
    axes.set_xlim(left=0)
    axes.set_xlabel(_LABELS[cost])
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)


def _columns(pairs: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
