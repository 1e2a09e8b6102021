"""``fastprune sweep``: many budgets from one pass, and the curve they make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fastprune.budget import parse_budget
from fastprune.cli.options import (
    data_options,
    output_options,
    pruning_options,
    running_options,
    source_options,
)
from fastprune.cli.tables import print_point, print_sweep
from fastprune.device import resolve_dtype
from fastprune.errors import FastpruneError
from fastprune.pareto import DEFAULT_BUDGETS
from fastprune.pareto.sweep import resolve_cache, run_sweep
from fastprune.progress import calm_libraries
from fastprune.settings import Settings


@click.command()
@click.argument("model")
@source_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=DEFAULT_BUDGETS,
    show_default=True,
    metavar="KIND=VALUE",
    help="macs=0.5, params=0.6 or latency=0.7 for a share, macs=250M or latency=12ms for a number."
    " Repeat it.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Output directory: one model per budget, and the curve.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier models there.")
@click.option("--resume", is_flag=True, help="Keep what is finished there, and go on.")
@click.option(
    "--pick",
    metavar="CONDITION",
    help='Name the smallest model within a bound, such as "accuracy>=0.88" or "drop<=0.01".',
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where statistics are kept for other budgets.  [default: the user's cache]",
)
@click.option("--no-cache", is_flag=True, help="Keep no statistics, and use none.")
@pruning_options
@data_options
@running_options
@output_options
def sweep(
    model: str,
    train: str,
    eval_data: str | None,
    budgets: Sequence[str],
    out: Path,
    overwrite: bool,
    resume: bool,
    pick: str | None,
    cache: Path | None,
    no_cache: bool,
    dtype: str,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune MODEL (a directory or a hub id) to many budgets: models and their curve in --out."""
    calm_libraries()
    if cache is not None and no_cache:
        raise click.UsageError("--cache and --no-cache exclude each other")
    silent = quiet or as_json
    settings = Settings(
        budgets=tuple(map(parse_budget, budgets)),
        dtype=resolve_dtype(dtype),
        progress=not silent,
        cache=resolve_cache(cache or not no_cache),
        **options,
    )
    found = run_sweep(
        model,
        train,
        settings,
        out=out,
        overwrite=overwrite,
        resume=resume,
        eval_data=eval_data,
        condition=pick,
        notify=(lambda _: None) if silent else print_point,
    )
    for point in found.points if silent else ():
        for warning in point.report["warnings"]:
            click.echo(f"fastprune: warning: {point.budget}: {warning}", err=True)
    try:
        picked, failure = None if pick is None else found.pick(pick), None
    except FastpruneError as error:
        picked, failure = None, error  # the models are there all the same
    if as_json:
        rows = [point.row() for point in found.points]
        picked_name = None if picked is None else str(picked.directory)
        click.echo(json.dumps({"points": rows, "picked": picked_name}, indent=2))
    elif not quiet:
        print_sweep(found, picked)
    elif picked is not None:
        click.echo(picked.directory)
    if failure is not None:
        raise failure
