"""``fastprune demo``: prune a real sentence encoder on text that every machine has."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fastprune.atomic import check_target
from fastprune.budget import parse_budget
from fastprune.cli.options import output_options
from fastprune.cli.tables import print_report
from fastprune.demo import encoder_directory, text_corpus
from fastprune.pipeline import prune
from fastprune.progress import calm_libraries


@click.command()
@click.option("--budget", default="macs=0.5", show_default=True, metavar="KIND=VALUE")
@click.option(
    "--samples",
    type=click.IntRange(1, 10000),
    default=2048,
    show_default=True,
    help="Calibration sentences.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also save the smaller model here.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output directory.")
@output_options
def demo(
    budget: str,
    samples: int,
    seed: int,
    out: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Prune all-MiniLM-L6-v2 without labels.

    Calibrates on documentation sentences of the installed Python packages and scores how well the
    pruned embeddings keep the original's similarities on sentences from other packages.
    """
    calm_libraries()
    asked = parse_budget(budget)
    if out is not None:
        check_target(out, overwrite)
    say = click.echo if not (quiet or as_json) else lambda _: None
    encoder = encoder_directory()
    say(f"model: all-MiniLM-L6-v2 in {encoder}")
    train, held_out = text_corpus(calibration=samples, heldout=1024, seed=seed)
    say(f"text: {len(train)} sentences to calibrate on, {len(held_out)} others to score on")
    result = prune(
        str(encoder),
        train,
        asked,
        eval_data=held_out,
        samples=samples,
        seed=seed,
        progress=not (quiet or as_json),
    )
    if out is not None:
        result.save_pretrained(out, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(result.report.to_dict(), indent=2))
    elif not quiet:
        print_report(result.report, out)
