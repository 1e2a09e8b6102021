"""``fastprune batch``: many models × tasks × budgets."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastprune.batch import Row, Summary, run_batch
from fastprune.batch.jobfile import read_job_file
from fastprune.batch.store import log_tail
from fastprune.cli.options import output_options
from fastprune.distributed import check_alone


@click.command()
@click.argument("job_file", metavar="JOBS.YAML", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Results.  [default: the file's out]")
@click.option(
    "--workers",
    type=int,
    help="Processes at once.  [default: one per GPU; without GPUs, one per four cores]",
)
@click.option(
    "--retries",
    default=2,
    show_default=True,
    help="Further attempts at a job that crashed, was killed or ran out of memory.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Run on a Ray cluster: host:port, ray://host:port or auto; alone, start one here.",
)
@click.option("--overwrite", is_flag=True, help="Replace results of jobs that have changed.")
@click.option("--dry-run", is_flag=True, help="Check the file and list its jobs; run nothing.")
@output_options
def batch(
    job_file: Path,
    out: Path | None,
    workers: int | None,
    retries: int,
    ray: str | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Prune every model of JOBS.YAML to all its budgets.

    The same command again goes on where the last one stopped. Ends with status 1 if a job failed.
    """
    check_alone("batch")
    if dry_run:
        _list_jobs(job_file, as_json)
        return
    try:
        summary = run_batch(
            job_file,
            out=out,
            workers=workers,
            retries=retries,
            ray=ray,
            overwrite=overwrite,
            progress=not (quiet or as_json),
        )
    except KeyboardInterrupt:
        click.echo("fastprune: all workers ended; the same command goes on from here", err=True)
        raise
    if as_json:
        click.echo(json.dumps([asdict(row) for row in summary.rows], indent=2))
    elif not quiet:
        _print(summary)
    if summary.failed:
        sys.exit(1)


def _print(summary: Summary) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{len(summary.rows)} results of {len({r.job for r in summary.rows})} jobs")
    for column in ("job", "budget"):
        table.add_column(column, overflow="fold")
    for column in ("score", "was", "MACs", "latency", "faster"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for row in summary.rows:
        table.add_row(escape(row.job), row.budget, *_cells(row), row.state)
    console.print(table)
    for name, ending in summary.failed.items():
        console.print(f"[red]{escape(name)}: {ending.kind}[/]: {escape(ending.error or '')}")
        if ending.kind != "refused":
            log = summary.out / "logs" / f"{name}.txt"
            for line in log_tail(log):
                console.print(f"    {escape(line)}", style="dim")
            console.print(f"    all of it: {escape(str(log))}", soft_wrap=True)
    where = f"{summary.out}/summary.csv, .json"
    hint = "; the same command tries the failed ones again" if summary.failed else ""
    console.print(escape(f"summary: {where}{hint}"), soft_wrap=True)


def _cells(row: Row) -> list[str]:
    speedup = None
    if row.latency_before_ms is not None and row.latency_after_ms is not None:
        speedup = row.latency_before_ms / row.latency_after_ms
    values = (
        (row.score_after, ".4f", ""),
        (row.score_before, ".4f", ""),
        (None if row.macs_kept is None else 100 * row.macs_kept, ".1f", " %"),
        (row.latency_after_ms, ".1f", " ms"),
        (speedup, ".2f", "x"),
    )
    return ["" if value is None else f"{value:{form}}{unit}" for value, form, unit in values]


def _list_jobs(job_file: Path, as_json: bool) -> None:
    jobs = read_job_file(job_file).jobs
    if as_json:
        click.echo(json.dumps([job.to_dict() for job in jobs], indent=2))
        return
    table = Table(title=f"{len(jobs)} jobs, {sum(len(job.budgets) for job in jobs)} results")
    for column in ("job", "model", "train", "eval", "budgets"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        cells = (job.name, job.model, job.train, job.eval or "", " ".join(map(str, job.budgets)))
        table.add_row(*map(escape, cells))
    Console(highlight=False).print(table)
