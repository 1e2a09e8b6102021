#!/usr/bin/env python
"""How close the operations come to what the machine can do, as a table and a plot.

    python benchmarks/roofline.py benchmarks/results/bench_ops_cpu.json

Writes ``<name>_roofline.md`` and ``.svg`` beside the results. The peaks are those measured in the
same run: bandwidth of a copy, and a large GEMM in the type of the operation's arithmetic.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from targets import TARGETS

Extra = Mapping[str, Any]

# Where neither memory nor arithmetic explains this share of the time, something else bounds it:
# launches, barriers, a chain of dependent steps.
LATENCY_SHARE = 0.1

_HEADER = (
    "operation",
    "device",
    "time",
    "GFLOP",
    "MB",
    "FLOP/B",
    "GFLOP/s",
    "GB/s",
    "share of peak",
    "bound by",
    "times the best baseline",
    "target",
)


def attained(extra: Extra) -> tuple[float, str]:
    """The share of the nearest roof that was reached, and which roof that is."""
    of_memory = extra["bytes_per_s"] / extra["copy_bytes_per_s"]
    of_arithmetic = extra["flops_per_s"] / extra["gemm_flops_per_s"]
    share = max(of_memory, of_arithmetic)
    if share < LATENCY_SHARE:
        return share, "latency"
    return share, "memory" if of_memory >= of_arithmetic else "compute"


def table(operations: Sequence[Extra]) -> str:
    """One row of Markdown per operation."""
    rows = [_HEADER, ("---", "---", *["---:"] * 7, "---", "---", "---"), *map(_row, operations)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(extra: Extra) -> tuple[str, ...]:
    share, bound = attained(extra)
    best = min(extra["speedup"], key=extra["speedup"].get)
    wanted = [t for t in TARGETS if t.device == extra["device"] and t.case == extra["case"]]
    return (
        extra["case"],
        extra["device"],
        f"{extra['seconds'] * 1e3:.3g} ms",
        f"{extra['flops'] / 1e9:.3g}",
        f"{extra['bytes'] / 1e6:.3g}",
        f"{extra['flops'] / extra['bytes']:.3g}",
        f"{extra['flops_per_s'] / 1e9:.3g}",
        f"{extra['bytes_per_s'] / 1e9:.3g}",
        f"{share:.0%}",
        bound,
        f"{extra['speedup'][best]:.2f} ({best})",
        "; ".join(target.what for target in wanted),
    )


def plot(operations: Sequence[Extra], target: Path) -> None:
    """Rooflines with the operations under them, and the ratios to the best baselines."""
    figure, (roofs, ratios) = plt.subplots(
        1, 2, figsize=(14, max(5.0, 0.35 * len(operations))), layout="constrained"
    )
    _plot_roofs(roofs, operations)
    _plot_ratios(ratios, operations)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _plot_roofs(axes: Any, operations: Sequence[Extra]) -> None:
    intensities = [extra["flops"] / extra["bytes"] for extra in operations]
    ends = min(intensities) / 4, max(intensities) * 4
    roofs = {
        (e["device"], e["arithmetic"]): (e["copy_bytes_per_s"], e["gemm_flops_per_s"])
        for e in operations
    }
    colours = {}
    for name, (bandwidth, rate) in roofs.items():
        x = sorted({*ends, min(max(rate / bandwidth, ends[0]), ends[1])})
        y = [min(rate, bandwidth * intensity) / 1e9 for intensity in x]
        (line,) = axes.plot(x, y, label=" ".join(name))
        colours[name] = line.get_color()
    for number, (extra, intensity) in enumerate(zip(operations, intensities, strict=True), 1):
        achieved = extra["flops_per_s"] / 1e9
        axes.plot(intensity, achieved, "o", color=colours[extra["device"], extra["arithmetic"]])
        axes.annotate(str(number), (intensity, achieved), xytext=(4, 4), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="GFLOP/s")
    axes.legend(title="peak, measured")


def _plot_ratios(axes: Any, operations: Sequence[Extra]) -> None:
    names = [f"{number} {e['case']} {e['device']}" for number, e in enumerate(operations, 1)]
    axes.barh(names, [min(extra["speedup"].values()) for extra in operations])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time of the best baseline / ours")
    axes.invert_yaxis()


def write_report(results: Path, stem: Path) -> None:
    """Write ``<stem>.md`` and ``<stem>.svg`` for a results file of pytest-benchmark."""
    content = json.loads(results.read_text())
    made = content["machine_info"]
    operations = [b["extra_info"] for b in content["benchmarks"] if "flops" in b["extra_info"]]
    stem.with_suffix(".md").write_text(
        f"Device {made['device']}, {made['threads']} threads, torch {made['versions']['torch']}, "
        f"commit {made['commit']}.\n\n{table(operations)}\n"
    )
    plot(operations, stem.with_suffix(".svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--stem", type=Path, help="default: <results>_roofline")
    arguments = parser.parse_args()
    results = arguments.results
    write_report(results, arguments.stem or results.with_name(f"{results.stem}_roofline"))


if __name__ == "__main__":
    main()
