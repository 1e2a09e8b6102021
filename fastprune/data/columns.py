"""Which columns hold the text and which the label."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from fastprune.data.table import Table
from fastprune.errors import DataError

# In order of preference; pairs first, because "question" alone would match three of them.
_TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "context"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("sentence",),
    ("text",),
)
_LABEL_COLUMNS = ("label", "labels", "score", "target")


def find_text_columns(table: Table, wanted: Sequence[str] | str | None) -> tuple[str, ...]:
    """One text column or a pair: as wanted, else by customary names, else the first text.

    Raises:
        DataError: a wanted column is missing, or none holds text.
    """
    if wanted is not None:
        names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        if not 1 <= len(names) <= 2:
            raise DataError(f"{len(names)} text columns were named; name one or two")
        for name in names:
            _require(table, name)
        return names
    for names in _TEXT_COLUMNS:
        if all(name in table.names for name in names):
            return names
    for name in table.names:
        if name not in _LABEL_COLUMNS and isinstance(table.column(name, [0])[0], str):
            return (name,)
    raise DataError(f"no column holds text; the columns are {_listed(table)}; name text_columns")


def find_text_pair(table: Table, wanted: Sequence[str] | str | None) -> tuple[str, str]:
    """The columns of question and context.

    Raises:
        DataError: there are not two, or a wanted one is missing.
    """
    names = find_text_columns(table, wanted or ("question", "context"))
    if len(names) != 2:
        raise DataError(f"one text column ({names[0]}) was named; name question and context")
    return names[0], names[1]


def find_label_column(table: Table, wanted: str | None, *, required: bool) -> str | None:
    """The label column: as wanted, else by customary names; ``None`` if absent and optional.

    Raises:
        DataError: the wanted column is missing, or labels are required and there are none.
    """
    return _find(table, wanted, _LABEL_COLUMNS, required)


def find_answer_column(table: Table, wanted: str | None, *, required: bool) -> str | None:
    """The column of accepted answers, found as :func:`find_label_column` does."""
    return _find(table, wanted, ("answers",), required)


def _find(table: Table, wanted: str | None, customary: Sequence[str], required: bool) -> str | None:
    if wanted is not None:
        _require(table, wanted)
        return wanted
    for name in customary:
        if name in table.names:
            return name
    if required:
        raise DataError(
            f"the data are unlabelled: the columns are {_listed(table)}; "
            "name label_column or give labelled data"
        )
    return None


def _require(table: Table, name: str) -> None:
    if name in table.names:
        return
    close = get_close_matches(name, table.names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "name one of them"
    raise DataError(f"there is no column {name!r}; the columns are {_listed(table)}; {hint}")


def _listed(table: Table) -> str:
    return ", ".join(map(repr, table.names))
