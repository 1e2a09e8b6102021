"""Latency tables on disk: JSON that people can read, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from fastprune.atomic import atomic_file, check_file
from fastprune.errors import LatencyTableError

_FORMAT = "fastprune latency table 1"
_AGAIN = "measure it again with fastprune lut"


def write_values(
    path: str | os.PathLike[str], values: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write the plain values of a table.

    Raises:
        CheckpointError: the file exists and may not be replaced, or cannot be written; a previous
            file is then as it was.
    """
    text = json.dumps({"format": _FORMAT, **values}, indent=2)
    with atomic_file(check_file(path, overwrite)) as staging:
        staging.write_text(text + "\n", encoding="utf-8")


def read_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_values` wrote.

    Raises:
        LatencyTableError: no such file, or one that holds something else.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LatencyTableError(
            f"cannot read the latency table {path} ({error.strerror}); name one that fastprune lut "
            "has written"
        ) from error
    except ValueError as error:
        raise LatencyTableError(f"{path} is no JSON ({error}); {_AGAIN}") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise LatencyTableError(f"{path} is no {_FORMAT!r}; {_AGAIN}")
    return values


def damaged(path: str | os.PathLike[str], error: Exception) -> LatencyTableError:
    """What to say about a file with values that no table has."""
    reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return LatencyTableError(f"{path} is damaged: {reason}; {_AGAIN}")


def text(values: Mapping[str, Any], name: str) -> str:
    """A value that is text."""
    value = values[name]
    if not isinstance(value, str):
        raise LatencyTableError(f"{name} must be text, not {value!r}")
    return value


def whole(values: Mapping[str, Any], name: str, least: int = 1) -> int:
    """A value that is a whole number."""
    value = values[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise LatencyTableError(f"{name} must be a whole number from {least} on, not {value!r}")
    return value


def number(values: Mapping[str, Any], name: str, *, zero: bool = False) -> float:
    """A value that is a positive number, or zero where that may be."""
    value = values[name]
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not isfinite(value) or value < 0 or (value == 0 and not zero):
        raise LatencyTableError(f"{name} must be a positive number, not {value!r}")
    return float(value)
