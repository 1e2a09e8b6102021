"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import transformers

Command = TypeVar("Command", bound=Callable[..., Any])


def _columns(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return None if value is None else [name.strip() for name in value.split(",")]


_DATA = [
    click.option(
        "--text-columns", metavar="A[,B]", callback=_columns, help="Columns with the text."
    ),
    click.option("--label-column", metavar="NAME", help="Column with the labels."),
    click.option("--metric", metavar="NAME", help="Score to report; default: the task's own."),
    click.option(
        "--batch-size",
        type=int,
        help="Samples per forward pass; default: as many as keep the device busy.",
    ),
    click.option("--max-length", type=int, help="Longest sample in tokens; default by task."),
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


data_options = _apply(_DATA)
running_options = _apply(_RUNNING)
output_options = _apply(_OUTPUT)


def calm_libraries() -> None:
    """Keep other libraries' bars and advice out of the output; their errors still show."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
