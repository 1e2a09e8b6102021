"""``fastprune search`` and ``fastprune finetune``: what training adds, where there is time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fastprune.cli.options import (
    output_options,
    reading_options,
    running_options,
    training_options,
)
from fastprune.progress import calm_libraries
from fastprune.structure import GRANULARITIES
from fastprune.training.finetuning import finetune as finetune_model
from fastprune.training.search import search_path

_FEW = 0.1
"""Share of units below which a path says little of its own."""


@click.command()
@click.argument("model")
@click.option("--train", required=True, metavar="FILE_OR_TASK", help="Labelled training data.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write, path.json."
)
@click.option("--epochs", default=1.0, show_default=True, help="Rounds through the data.")
@click.option(
    "--granularity",
    type=click.Choice(list(GRANULARITIES)),
    default="heads",
    show_default=True,
    help="How finely attention is cut: whole heads, or dimensions inside them.",
)
@click.option("--save-every", default=500, show_default=True, help="Steps between checkpoints.")
@training_options
@reading_options
@running_options
@output_options
def search(model: str, train: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Find the order in which MODEL's units enter a solution path, on labelled data.

    One search serves any number of budgets: fastprune sweep MODEL --method spp --path path.json
    """
    calm_libraries()
    found = search_path(model, train, progress=not (quiet or as_json), **options)
    if as_json:
        click.echo(json.dumps({**found.origin, "entered": found.entered}, indent=2))
    elif not quiet:
        click.echo(
            f"{found.entered:.0%} of {len(found.order):,} units entered in "
            f"{found.origin['steps']:,} steps; saved to {options['out']}"
        )
        if found.entered < _FEW:
            click.echo(
                "few units have entered, and the others are ranked by how close they have come; a "
                "longer search tells more: more --samples or --epochs, or a smaller --batch-size"
            )


@click.command()
@click.argument("model")
@click.option("--train", required=True, metavar="FILE_OR_TASK", help="Labelled training data.")
@click.option("--eval", "eval_data", metavar="FILE_OR_TASK", help="Held-out data to score on.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output directory.")
@click.option("--epochs", default=3.0, show_default=True, help="Rounds through the data.")
@click.option("--learning-rate", default=3e-5, show_default=True, help="The highest of a cosine.")
@click.option("--weight-decay", default=0.01, show_default=True, help="Of AdamW.")
@click.option("--save-every", type=int, help="Steps between checkpoints.  [default: an epoch]")
@click.option("--metric", metavar="NAME", help="Score to report; default: the task's own.")
@training_options
@reading_options
@running_options
@output_options
def finetune(model: str, train: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Train MODEL (a pruned one, or any other) and write it to --out.

    What was removed stays removed. With --eval the best checkpoint is what is written.
    """
    calm_libraries()
    found = finetune_model(model, train, progress=not (quiet or as_json), **options)
    scores = {"metric": found.metric, "before": found.before, "after": found.after}
    if as_json:
        click.echo(json.dumps({**scores, "steps": found.steps, "seconds": found.seconds}, indent=2))
    elif not quiet:
        scored = f"{found.metric} {found.before:.4f} -> {found.after:.4f}, " if found.metric else ""
        click.echo(f"{scored}{found.steps:,} steps; saved to {options['out']}")
