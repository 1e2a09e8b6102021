"""``python -m fastprune.compat.retraining_free main.py ARGS``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fastprune.compat.retraining_free.launcher import run_script
from fastprune.errors import FastpruneError


@click.command(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
    }
)
@click.option("--bug-compatible", is_flag=True, help="Switch the original's defects on.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with train.tsv and validation.tsv, instead of the hub's data.",
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(script: Path, arguments: tuple[str, ...], bug_compatible: bool, data: Path | None) -> None:
    """Run SCRIPT, the main.py of retraining-free-pruning, on fastprune.

    ARGUMENTS are the script's own; options of this command come before SCRIPT.
    """
    try:
        run_script(script, arguments, bug_compatible=bug_compatible, data=data)
    except FastpruneError as error:
        click.echo(f"fastprune: error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m fastprune.compat.retraining_free")
