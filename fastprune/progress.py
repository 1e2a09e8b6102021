"""Progress bars for long work: on a terminal only, and never when asked to be quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import transformers
from tqdm import tqdm


def progress_bar(
    label: str,
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    enabled: bool = True,
    unit: str = "it",
) -> tqdm[Any]:
    """A bar on stderr, to iterate over ``items`` or to ``update`` by hand in a ``with`` block.

    It shows only if ``enabled`` and stderr is a terminal, so that logs, pipes and ``--json``
    stay clean, and is erased at the end.
    """
    hidden = not (enabled and sys.stderr.isatty())
    return tqdm(items, desc=label, total=total, unit=unit, leave=False, disable=hidden)


def calm_libraries() -> None:
    """Keep other libraries' bars and advice out of the output; their errors still show."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
