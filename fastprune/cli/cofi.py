"""``fastprune cofi``: what goes is learnt along with the weights, where there is time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fastprune.budget import parse_budget
from fastprune.cli.options import (
    output_options,
    phase_options,
    reading_options,
    running_options,
    training_options,
)
from fastprune.cli.prune import prune_and_save
from fastprune.cofi.choices import (
    DISTILLATIONS,
    GATES,
    MATCHINGS,
    STARTS,
    TEACHER_LAYERS,
    UNDER_GATES,
    GateTraining,
)
from fastprune.cofi.options import OPTIONS, gate_training
from fastprune.compaction.directories import budget_directory
from fastprune.distributed import current_group
from fastprune.training.checkpoints import clear_budgets

_DEFAULT = GateTraining()


def _kinds(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return None if value is None else tuple(name.strip() for name in value.split(","))


@click.command()
@click.argument("model")
@click.option("--train", required=True, metavar="FILE_OR_TASK", help="Labelled training data.")
@click.option("--eval", "eval_data", metavar="FILE_OR_TASK", help="Held-out data to score on.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=["params=0.2"],
    show_default=True,
    metavar="KIND=VALUE",
    help="params=0.2 or macs=0.1 for a share, macs=20M for a number. May repeat, a training each.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output directory.")
@click.option(
    "--gates",
    metavar="A[,B]",
    callback=_kinds,
    help=f"What may go: {', '.join(GATES)}.  [default: all that the model can do without]",
)
@phase_options
@click.option(
    "--ramp",
    default=_DEFAULT.ramp,
    show_default=True,
    help="Share of the steps under gates in which the target rises.",
)
@click.option(
    "--distillation",
    type=click.Choice(DISTILLATIONS),
    default=_DEFAULT.distillation,
    show_default=True,
    help="What is learnt from MODEL: hidden states and predictions, predictions, or nothing.",
)
@click.option(
    "--matching",
    type=click.Choice(MATCHINGS),
    default=_DEFAULT.matching,
    show_default=True,
    help="How layers are matched with those of MODEL.",
)
@click.option(
    "--teacher-layers",
    type=click.Choice(TEACHER_LAYERS),
    default=_DEFAULT.teacher_layers,
    show_default=True,
    help="Which four layers of MODEL are imitated.",
)
@click.option(
    "--layer-share",
    default=_DEFAULT.layer_share,
    show_default=True,
    help="How much of the loss hidden states are; the rest are predictions.",
)
@click.option(
    "--temperature",
    default=_DEFAULT.temperature,
    show_default=True,
    help="That softens predictions.",
)
@click.option(
    "--tolerance",
    default=_DEFAULT.tolerance,
    show_default=True,
    help="How far sparsity may be below its target where a checkpoint counts.",
)
@click.option(
    "--weight-decay",
    default=UNDER_GATES.weight_decay,
    show_default=True,
    help="Of matrices.",
)
@click.option(
    "--start",
    type=click.Choice(STARTS),
    default=_DEFAULT.start,
    show_default=True,
    help="Gates start open, or at the ranks of their units' Fisher information.",
)
@click.option(
    "--save-every",
    type=int,
    help="Steps between checkpoints, each scored on --eval.  [default: an epoch]",
)
@click.option("--metric", metavar="NAME", help="Score to report; default: the task's own.")
@training_options
@reading_options
@running_options
@output_options
def cofi(
    budgets: Sequence[str],
    out: Path,
    resume: bool,
    **options: Any,
) -> None:
    """Train MODEL under gates until it fits --budget, and write the smaller model to --out.

    Heads, filters, whole sublayers and hidden dimensions go. This takes labels and minutes to
    hours, and pays where little is to be left: below a fifth.
    """
    checkpoints = Path(f"{out.resolve()}.checkpoints")
    chosen = {name: options.pop(name) for name in OPTIONS if name in options}
    prune_and_save(
        budgets=budgets,
        out=out,
        begun=lambda budget: resume and budget_directory(checkpoints, budget).is_dir(),
        method="cofi",
        training=gate_training(**chosen, checkpoints=checkpoints, resume=resume),
        **options,
    )
    # Not before: from there an interrupted run goes on.
    asked = list(map(parse_budget, budgets))
    current_group().first(lambda: clear_budgets(checkpoints, asked))
