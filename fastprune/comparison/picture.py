"""The picture of a comparison: scores over what is left, and what each method takes."""

from __future__ import annotations

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from fastprune.comparison.comparison import Comparison


def draw(found: Comparison) -> Figure:
    """One panel of scores per way to tune, with standard deviations, and one of seconds."""
    methods = list(dict.fromkeys(way.method for way in found.ways))
    colors = {method: f"C{index % 10}" for index, method in enumerate(methods)}
    tunes = list(dict.fromkeys(way.tune for way in found.ways))
    # Without pyplot: no window, and no state that others share.
    figure = Figure(figsize=(3.8 * (len(tunes) + 1), 3.8), layout="constrained")
    panels = figure.subplots(1, len(tunes) + 1)
    for axes, tune in zip(panels, tunes, strict=False):
        _scores(axes, found, tune, colors)
        axes.sharey(panels[0])
    panels[0].set_ylabel(found.metric)
    handles = {
        label: handle
        for axes in panels[:-1]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    panels[0].legend(handles.values(), handles.keys(), loc="lower right", frameon=False)
    _seconds(panels[-1], found, colors)
    return figure


def _scores(axes: Axes, found: Comparison, tune: str, colors: dict[str, str]) -> None:
    for way in (way for way in found.ways if way.tune == tune):
        means = [found.score(way, budget) for budget in found.budgets]
        axes.errorbar(
            [found.macs(way, budget) for budget in found.budgets],
            [mean.value for mean in means],
            yerr=[mean.deviation or 0.0 for mean in means],
            fmt="-o",
            markersize=3.5,
            linewidth=1.2,
            capsize=2,
            color=colors[way.method],
            label=way.method,
        )
    axes.axhline(found.dense, color="grey", linewidth=0.8, linestyle=":")
    axes.set_title(f"tune={tune}")
    axes.set_xlabel("MACs kept, prunable part")
    axes.grid(alpha=0.25)


def _seconds(axes: Axes, found: Comparison, colors: dict[str, str]) -> None:
    """On a logarithmic axis: methods are orders of magnitude apart."""
    taken = {
        method: statistics.median(found.seconds(way) for way in found.ways if way.method == method)
        for method in colors
    }
    axes.barh(list(taken), list(taken.values()), color=list(colors.values()))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("one budget")
    axes.set_xlabel(f"{found.clock}, from calibration on")
    axes.grid(alpha=0.25, axis="x")
