"""``fastprune eval``: the score of a model, dense or pruned."""

from __future__ import annotations

import json
from typing import Any

import click

from fastprune.cli.options import data_options, output_options, running_options
from fastprune.device import resolve_dtype
from fastprune.evaluation import evaluate as evaluate_model
from fastprune.evaluation import resolve_metric
from fastprune.inputs import Reader, load_model, load_tokenizer
from fastprune.progress import calm_libraries


@click.command("eval")
@click.argument("model")
@click.option("--data", required=True, metavar="FILE_OR_TASK", help="Labelled data.")
@click.option("--reference", metavar="MODEL", help="Embedding models: the model to stay close to.")
@data_options
@running_options
@output_options
def evaluate(
    model: str,
    data: str,
    reference: str | None,
    metric: str | None,
    batch_size: int | None,
    device: str,
    dtype: str,
    quiet: bool,
    as_json: bool,
    **reading: Any,
) -> None:
    """Score MODEL (a directory or a hub id) on --data."""
    calm_libraries()
    loaded = load_model(model, device)
    progress = not (quiet or as_json)
    reader = Reader(loaded, load_tokenizer(model, loaded), progress=progress, **reading)
    samples = reader.held_out(data)
    score = evaluate_model(
        loaded,
        samples,
        metric,
        batch_size=batch_size,
        dtype=resolve_dtype(dtype),
        reference=None if reference is None else load_model(reference, device),
        progress=progress,
    )
    name = resolve_metric(metric, samples)
    if as_json:
        click.echo(json.dumps({"metric": name, "score": score, "samples": len(samples)}))
    else:
        click.echo(f"{name} {score:.4f} on {len(samples)} samples")
