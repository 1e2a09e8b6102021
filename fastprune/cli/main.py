"""The command group, and how errors and interrupts leave it."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

import click

from fastprune.cli.batch import batch
from fastprune.cli.cofi import cofi
from fastprune.cli.compare import compare
from fastprune.cli.demo import demo
from fastprune.cli.doctor import doctor
from fastprune.cli.evaluate import evaluate
from fastprune.cli.inspect import inspect
from fastprune.cli.lut import lut
from fastprune.cli.prune import prune
from fastprune.cli.sweep import sweep
from fastprune.cli.training import finetune, search
from fastprune.device import is_memory
from fastprune.distributed import current_group, data_parallel
from fastprune.errors import FastpruneError
from fastprune.version import __version__


class _Group(click.Group):
    """Prints fastprune's own errors as the one line they are.

    Of processes that torchrun has started, the first alone is heard.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with data_parallel() as group, _silent(group.rank > 0):
                return super().main(*args, **kwargs)
        except FastpruneError as error:
            _complain(error)
            sys.exit(1)

    def invoke(self, context: click.Context) -> Any:
        # A terminated run leaves through the same clean-up as an interrupted one.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with current_group().agreed(), _own_warnings():
                return super().invoke(context)
        except FastpruneError as error:
            _complain(error)
            sys.exit(1)
        except (MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            _complain("memory ran out; use a smaller --batch or --batch-size, or fewer --samples")
            sys.exit(1)
        except KeyboardInterrupt:
            cure = "; --resume goes on with it" if self._resumes(context.invoked_subcommand) else ""
            click.echo(f"fastprune: interrupted; nothing was left half-written{cure}", err=True)
            sys.exit(130)

    def _resumes(self, command: str | None) -> bool:
        """Whether a command can go on with what an interrupted one has done."""
        found = self.commands.get(command or "")
        return found is not None and any(param.name == "resume" for param in found.params)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Within the block what warns of a run is one line; what libraries have to say is as it was."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RuntimeWarning):
                click.echo(f"fastprune: warning: {message}", err=True)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = shown
        yield


def _complain(error: FastpruneError | str) -> None:
    click.echo(f"fastprune: error: {error}", err=True)


@contextmanager
def _silent(silent: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if silent:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastprune")
def main() -> None:
    """Prune Transformers without retraining: smaller, faster models in seconds."""


for _command in (
    prune,
    sweep,
    compare,
    batch,
    cofi,
    search,
    finetune,
    evaluate,
    inspect,
    lut,
    doctor,
    demo,
):
    main.add_command(_command)
