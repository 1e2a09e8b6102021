"""What is checked of values that users choose."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastprune.errors import FastpruneError


def check_known(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a name that is none of the choices.

    Raises:
        FastpruneError: naming the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise FastpruneError(f"unknown {name} {value!r}; use {', '.join(choices)}")


def is_whole(value: object) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))
