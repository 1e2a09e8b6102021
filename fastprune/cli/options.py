"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from fastprune.calibration.objective import Targets
from fastprune.cofi.choices import AFTERWARDS, UNDER_GATES, GateTraining
from fastprune.selection import METHODS
from fastprune.settings import PRESETS, TEACHERS
from fastprune.structure import GRANULARITIES
from fastprune.tuning import TUNERS

Command = TypeVar("Command", bound=Callable[..., Any])


def _columns(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return None if value is None else [name.strip() for name in value.split(",")]


_SOURCES = [
    click.option("--train", required=True, metavar="FILE_OR_TASK", help="Calibration data."),
    click.option("--eval", "eval_data", metavar="FILE_OR_TASK", help="Held-out data to score on."),
]
_READING = [
    click.option(
        "--text-columns", metavar="A[,B]", callback=_columns, help="Columns with the text."
    ),
    click.option("--label-column", metavar="NAME", help="Column with the labels."),
    click.option("--max-length", type=int, help="Longest sample in tokens; default by task."),
]
_DATA = [
    *_READING,
    click.option("--metric", metavar="NAME", help="Score to report; default: the task's own."),
    click.option(
        "--batch-size",
        type=int,
        help="Samples per forward pass; default: as many as keep the device busy.",
    ),
]
_TRAINING = [
    click.option("--batch-size", default=32, show_default=True, help="Samples of a batch."),
    click.option("--accumulate", default=1, show_default=True, help="Batches that make one step."),
    click.option("--samples", type=int, help="Training samples.  [default: all]"),
    click.option("--seed", default=0, show_default=True, help="Of every random choice."),
    click.option("--resume", is_flag=True, help="Go on from the last checkpoint."),
    click.option("--overwrite", is_flag=True, help="Replace what is at --out."),
]
_PHASES = [
    click.option(
        "--epochs",
        default=UNDER_GATES.epochs,
        show_default=True,
        help="Method cofi: rounds through the training data under gates.",
    ),
    click.option(
        "--finetune-epochs",
        default=AFTERWARDS.epochs,
        show_default=True,
        help="Method cofi: rounds of the smaller model afterwards; 0 = none.",
    ),
    click.option(
        "--learning-rate",
        default=UNDER_GATES.learning_rate,
        show_default=True,
        help="Method cofi: of weights under gates; it falls linearly.",
    ),
    click.option(
        "--finetune-learning-rate",
        default=AFTERWARDS.learning_rate,
        show_default=True,
        help="Method cofi: of weights afterwards, likewise.",
    ),
    click.option(
        "--gate-rate",
        default=GateTraining.gate_rate,
        show_default=True,
        help="Method cofi: learning rate of gates.",
    ),
]
_WAY = [
    click.option(
        "--method",
        type=click.Choice(list(METHODS)),
        help="How units are chosen.  [default: obs]",
    ),
    click.option(
        "--tune",
        type=click.Choice(list(TUNERS)),
        help="How the units that stay are corrected.  [default: weights; cofi: none]",
    ),
    click.option(
        "--preset", type=click.Choice(PRESETS), help="Follow a published algorithm exactly."
    ),
    click.option(
        "--path",
        type=click.Path(),
        metavar="FILE",
        help="Method spp: what fastprune search has found.  [default: follow a path now]",
    ),
    click.option("--seed", default=0, show_default=True, help="Of every random choice."),
]
_SETTINGS = [
    click.option(
        "--stages",
        default=1,
        show_default=True,
        help="Prune in this many steps, calibrating and tuning at each.",
    ),
    click.option(
        "--teacher",
        type=click.Choice(TEACHERS),
        default="dense",
        show_default=True,
        help="What tuning imitates: the dense model, or one pruned half-way.",
    ),
    click.option(
        "--granularity",
        type=click.Choice(list(GRANULARITIES)),
        default="heads",
        show_default=True,
        help="How finely attention is cut: whole heads, or dimensions inside them.",
    ),
    click.option(
        "--samples", type=int, help="Calibration samples.  [default: 2048, or all; cofi: all]"
    ),
    click.option(
        "--targets",
        type=click.Choice(get_args(Targets)),
        default="model",
        show_default=True,
        help="Losses against the model's own output distribution, or against labels.",
    ),
    click.option("--seq-len", type=float, metavar="N", help="Tokens at which MACs are counted."),
    click.option(
        "--align",
        type=int,
        help="Filter counts are multiples of this.  [default: 1; 8 under a latency budget]",
    ),
    click.option(
        "--latency-table",
        metavar="FILE",
        help="What fastprune lut has measured.  [default: latency budgets measure it first]",
    ),
    click.option("--uniform", is_flag=True, help="Same widths in every layer: a stock checkpoint."),
    click.option(
        "--tokens",
        type=float,
        metavar="SHARE",
        help="ViT, DeiT: merge tokens as well, to save this share of the pruned model's MACs.",
    ),
]
_RUNNING = [
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--dtype",
        default="auto",
        show_default=True,
        help="Type of forward and backward passes: auto (float32), bfloat16, float16.",
    ),
]
_OUTPUT = [
    click.option("--quiet", is_flag=True, help="No progress bars and no table."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
]


def _apply(options: list[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


source_options = _apply(_SOURCES)
pruning_options = _apply(_WAY + _SETTINGS)
common_pruning_options = _apply(_SETTINGS)
data_options = _apply(_DATA)
reading_options = _apply(_READING)
phase_options = _apply(_PHASES)
training_options = _apply(_TRAINING)
running_options = _apply(_RUNNING)
output_options = _apply(_OUTPUT)
