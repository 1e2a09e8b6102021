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
from fastprune.batch.store import Store
from fastprune.cli.options import output_options


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
@click.option("--overwrite", is_flag=True, help="Discard results of jobs that have changed.")
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
        _print(summary, Store(out or read_job_file(job_file).out or Path()))
    if summary.failed:
        sys.exit(1)
