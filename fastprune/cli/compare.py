"""``fastprune compare``: ways to prune, side by side on the same model and data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fastprune.budget import parse_budget
from fastprune.cli.options import (
    common_pruning_options,
    data_options,
    output_options,
    phase_options,
    running_options,
)
from fastprune.cli.tables import print_comparison, print_trial
from fastprune.cofi.options import PHASES, gate_training
from fastprune.comparison.run import run_comparison
from fastprune.comparison.ways import DEFAULT_TUNES, default_methods
from fastprune.device import resolve_dtype
from fastprune.pareto import DEFAULT_BUDGETS
from fastprune.pareto.sweep import resolve_cache
from fastprune.progress import calm_libraries
from fastprune.selection import METHODS
from fastprune.tuning import TUNERS


@click.command()
@click.argument("model")
@click.option("--train", required=True, metavar="FILE_OR_TASK", help="Calibration data.")
@click.option(
    "--eval",
    "eval_data",
    required=True,
    metavar="FILE_OR_TASK",
    help="Held-out data to score on.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=DEFAULT_BUDGETS,
    show_default=True,
    metavar="KIND=VALUE",
    help="As for fastprune sweep. Repeat it.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(list(METHODS)),
    help="How units are chosen. Repeat it.  [default: all but cofi, which trains]",
)
@click.option(
    "--tune",
    "tunes",
    multiple=True,
    type=click.Choice(list(TUNERS)),
    default=DEFAULT_TUNES,
    show_default=True,
    help="How the units that stay are corrected. Repeat it.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="How often, each time with other samples.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory for the comparison as JSON, CSV, Markdown and a picture.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier comparison there.")
@click.option("--resume", is_flag=True, help="Keep what is finished there, and go on.")
@click.option("--cache", is_flag=True, help="Keep and use statistics in the user's cache.")
@click.option("--latency", is_flag=True, help="Measure milliseconds before and after.")
@phase_options
@common_pruning_options
@data_options
@running_options
@output_options
def compare(
    model: str,
    train: str,
    eval_data: str,
    budgets: Sequence[str],
    methods: Sequence[str],
    tunes: Sequence[str],
    seeds: int,
    out: Path,
    overwrite: bool,
    resume: bool,
    cache: bool,
    dtype: str,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune MODEL (a directory or a hub id) in several ways, and compare the scores."""
    calm_libraries()
    silent = quiet or as_json
    trains = any(METHODS[name].trains for name in methods)
    training = {name: options.pop(name) for name in (*PHASES, "gate_rate")}
    choices = {
        "budgets": tuple(map(parse_budget, budgets)),
        "dtype": resolve_dtype(dtype),
        "progress": not silent,
        "cache": resolve_cache(cache),
        "training": gate_training(**training) if trains else None,
        **options,
    }
    found = run_comparison(
        model,
        train,
        eval_data,
        choices,
        methods=methods or default_methods(),
        tunes=tunes,
        seeds=range(seeds),
        out=out,
        overwrite=overwrite,
        resume=resume,
        notify=(lambda _: None) if silent else print_trial,
    )
    if as_json:
        rows = {"dense": found.dense, "left_out": dict(found.left_out), "rows": found.rows()}
        click.echo(json.dumps(rows, indent=2))
    elif not quiet:
        print_comparison(found)
