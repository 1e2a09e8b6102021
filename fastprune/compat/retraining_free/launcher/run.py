"""A script of the repository, in an environment where all it imports is there."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fastprune.compat.retraining_free.launcher.attributes import attribute
from fastprune.compat.retraining_free.launcher.datasets import local_data, metrics_available
from fastprune.compat.retraining_free.launcher.devices import cpu_without_gpu
from fastprune.compat.retraining_free.launcher.head_masks import head_masks_applied
from fastprune.compat.retraining_free.launcher.modules import modules_replaced
from fastprune.errors import FastpruneError


def run_script(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    bug_compatible: bool = False,
    data: Path | None = None,
) -> None:
    """Run ``script`` as ``python script arguments`` would, with fastprune in the original's place.

    Everything is put back afterwards, also when the script fails.

    Args:
        script: a ``main.py`` that imports ``prune.fisher`` and so on. Other modules are taken from
            the directory it lies in.
        arguments: for the script.
        bug_compatible: switch the original's defects on.
        data: a directory whose files, named after their splits (``train.tsv``), are what
            ``datasets.load_dataset`` gives; by default it is left alone.

    Raises:
        FastpruneError: no such script, or data that cannot be used.
    """
    if not script.is_file():
        raise FastpruneError(
            f"there is no script {script}; give the path of main.py in a checkout of "
            "WoosukKwon/retraining-free-pruning"
        )
    script = script.resolve()
    with ExitStack() as stack:
        stack.enter_context(attribute(sys, "argv", [str(script), *arguments]))
        stack.enter_context(attribute(sys, "path", [str(script.parent), *sys.path]))
        stack.enter_context(modules_replaced(script.parent, bug_compatible=bug_compatible))
        stack.enter_context(cpu_without_gpu())
        stack.enter_context(head_masks_applied())
        stack.enter_context(metrics_available())
        if data is not None:
            stack.enter_context(local_data(data))
        runpy.run_path(str(script), run_name="__main__")
