"""Tables for people."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastprune.report import Report, Size


def print_report(report: Report, saved_to: Path | None = None, *, stock: bool = False) -> None:
    """Print what a run promised and what was measured.

    Args:
        report: of the run.
        saved_to: where the model lies, if anywhere.
        stock: whether it loads without fastprune.
    """
    console = Console(highlight=False)
    table = Table(title=f"{report.budget}, {report.preset or report.method}, tune={report.tune}")
    table.add_column("")
    for column in ("before", "after", "kept"):
        table.add_column(column, justify="right")
    score = report.score
    if score.dense is not None and score.pruned is not None:
        table.add_row(score.metric, f"{score.dense:.4f}", f"{score.pruned:.4f}", "")
    tokens = f"MACs, prunable part, {report.seq_len:.4g} tokens"
    for name, size in (
        (tokens, report.macs),
        ("parameters, prunable part", report.params),
        ("parameters, all", report.params_total),
    ):
        table.add_row(name, _count(size.dense), _count(size.pruned), _share(size))
    if report.latency_ms is not None:
        latency = report.latency_ms
        table.add_row(
            f"latency, {latency.batch} x {latency.length} tokens",
            f"{latency.dense:.1f} ms",
            f"{latency.pruned:.1f} ms",
            f"{latency.speedup:.2f}x faster",
        )
        if latency.estimated is not None and latency.deviation is not None:
            table.add_row(
                "latency, as the table estimates",
                f"{latency.estimated.dense:.1f} ms",
                f"{latency.estimated.pruned:.1f} ms",
                f"{latency.deviation:+.1%} off",
            )
    console.print(table)
    for kind, counts in report.units.items():
        console.print(f"{kind} per layer: {' '.join(map(str, counts))}")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.timing_s.items())
    console.print(f"seconds without scoring: {stages}")
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    if saved_to is not None:
        hint = "" if stock else " (before loading: import fastprune)"
        console.print(f"saved to {saved_to}{hint}")


def _count(value: float) -> str:
    for suffix, scale in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= scale:
            return f"{value / scale:.1f}{suffix}"
    return f"{value:.0f}"


def _share(size: Size) -> str:
    return f"{100 * size.kept:.1f} %"
