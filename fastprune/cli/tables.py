"""Tables for people."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from fastprune.comparison import Comparison, Trial
from fastprune.pareto import Point, Sweep
from fastprune.report import Report, Size


def print_report(report: Report, saved_to: Path | None = None, *, stock: bool = False) -> None:
    """Print what a run promised and what was measured.

    Args:
        report: of the run.
        saved_to: where the model lies, if anywhere.
        stock: whether it loads without fastprune.
    """
    console = Console(highlight=False)
    fewer = ", fewer tokens" if "tokens" in report.units else ""
    title = f"{report.budget}{fewer}, {report.preset or report.method}, tune={report.tune}"
    table = Table(title=title)
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
        where = " per layer" if len(counts) > 1 else ""
        console.print(f"{kind}{where}: {' '.join(map(str, counts))}")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.timing_s.items())
    console.print(f"seconds without scoring: {stages}")
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    if saved_to is not None:
        hint = "" if stock else " (before loading: import fastprune)"
        console.print(f"saved to {saved_to}{hint}")


def print_point(point: Point) -> None:
    """One line for a point of a sweep, as soon as it is there."""
    score = "" if point.score is None else f", {point.report['metric']} {point.score:.4f}"
    click.echo(f"{point.budget}: {_share_of(point.macs)} of the MACs{score}")


def print_sweep(sweep: Sweep, picked: Point | None = None) -> None:
    """Print the curve of a sweep as a table, and where it was saved.

    Args:
        sweep: what came out.
        picked: the point that was asked for.
    """
    console = Console(highlight=False)
    first = sweep.points[0].report
    count = f"{len(sweep.points)} budget{'s' if len(sweep.points) > 1 else ''}"
    title = f"{count}, {first['preset'] or first['method']}"
    table = Table(title=f"{title}, tune={first['tune']}, {sweep.seconds:.1f} s in all")
    scored, timed = sweep.metric is not None, first["latency_ms"] is not None
    table.add_column("budget", no_wrap=True)
    columns = [sweep.metric or ""] * scored + ["MACs", "parameters"]
    for column in columns + ["latency", "faster"] * timed + ["unbeaten"] * scored:
        table.add_column(column, justify="right", no_wrap=True)
    best = sweep.pareto() if scored else []
    _add_dense(table, sweep, timed)
    for point in sweep.points:
        cells = [f"{point.score:.4f}"] if point.score is not None else []
        total = point.report["params_total"]["pruned"]
        cells += [_share_of(point.macs), f"{_count(total)}, {_share_of(point.params)}"]
        if timed:
            cells += [f"{point.latency:.1f} ms", f"{point.speedup:.2f}x"]
        cells += ["yes" if point in best else "no"] * scored
        table.add_row(point.budget, *cells, style="bold" if point is picked else None)
    console.print(table)
    for point in sweep.points:
        for warning in point.report["warnings"]:
            console.print(f"[yellow]warning:[/] {point.budget}: {warning}")
    if sweep.directory is not None:
        files = "curve.csv, curve.json" + (", curve.png" if scored else "")
        console.print(f"saved to {sweep.directory}: one directory per budget, {files}")
    if picked is not None:
        console.print(f"picked: {picked.directory or picked.budget}")


def print_trial(trial: Trial) -> None:
    """One line for a trial of a comparison, as soon as it is there."""
    scores = " ".join(f"{cell.score:.4f}" for cell in trial.cells)
    click.echo(f"{trial.way}, seed {trial.seed}: {trial.metric} {scores}")


def print_comparison(found: Comparison) -> None:
    """Print the scores of every way, mean and standard deviation over seeds."""
    console = Console(highlight=False)
    seeds = len({trial.seed for trial in found.trials})
    title = f"{found.metric}, dense {found.dense:.4f}, {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table("method", "tune", title=title)
    for column in (*found.budgets, found.clock):
        table.add_column(column, justify="right", no_wrap=True)
    for way in found.ways:
        scores = [str(found.score(way, budget)) for budget in found.budgets]
        table.add_row(way.method, way.tune, *scores, f"{found.seconds(way):.1f}")
    console.print(table)
    console.print(f"{found.clock}: of one budget, from calibration on")
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    for reason in dict.fromkeys(found.left_out.values()):
        names = [name for name, why in found.left_out.items() if why == reason]
        console.print(f"left out: {'; '.join(names)}: {reason}")
    if found.directory is not None:
        files = "comparison.json, comparison.csv, comparison.md, comparison.png"
        console.print(f"saved to {found.directory}: {files}")


def _add_dense(table: Table, sweep: Sweep, timed: bool) -> None:
    first = sweep.points[0].report
    cells = [] if sweep.dense_score is None else [f"{sweep.dense_score:.4f}"]
    cells += [_share_of(1), f"{_count(first['params_total']['dense'])}, {_share_of(1)}"]
    if timed:
        cells += [f"{first['latency_ms']['dense']:.1f} ms", ""]
    table.add_row("dense", *cells, style="dim")


def _count(value: float) -> str:
    for suffix, scale in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= scale:
            return f"{value / scale:.1f}{suffix}"
    return f"{value:.0f}"


def _share(size: Size) -> str:
    return _share_of(size.kept)


def _share_of(share: float) -> str:
    return f"{100 * share:.1f} %"
