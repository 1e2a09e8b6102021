"""The command group, and how errors and interrupts leave it."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from fastprune.cli.batch import batch
from fastprune.cli.demo import demo
from fastprune.cli.doctor import doctor
from fastprune.cli.evaluate import evaluate
from fastprune.cli.inspect import inspect
from fastprune.cli.prune import prune
from fastprune.cli.sweep import sweep
from fastprune.errors import FastpruneError
from fastprune.version import __version__


class _Group(click.Group):
    """Prints fastprune's own errors as the one line they are."""

    def invoke(self, context: click.Context) -> Any:
        # A terminated run leaves through the same clean-up as an interrupted one.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return super().invoke(context)
        except FastpruneError as error:
            click.echo(f"fastprune: error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("fastprune: interrupted; nothing was left half-written", err=True)
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastprune")
def main() -> None:
    """Prune Transformers without retraining: smaller, faster models in seconds."""


for _command in (prune, sweep, batch, evaluate, inspect, doctor, demo):
    main.add_command(_command)
