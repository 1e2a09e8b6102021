"""Data that somebody else has tokenised: DataLoader batches and rows with ``input_ids``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fastprune.data.table import Table
from fastprune.errors import DataError

TOKEN_FEATURES = ("input_ids", "attention_mask", "token_type_ids")
ANSWER_POSITIONS = ("start_positions", "end_positions")
_INPUTS = ("input_ids", "pixel_values")
_KNOWN = (*TOKEN_FEATURES, "pixel_values", "labels", "label", *ANSWER_POSITIONS)


def is_batch(item: Any) -> bool:
    """Whether an item of an iterable is a batch of model inputs, not one row."""
    if not isinstance(item, Mapping):
        return False
    inputs = next((item[name] for name in _INPUTS if name in item), None)
    dimensions = 4 if "pixel_values" in item and "input_ids" not in item else 2
    return inputs is not None and np.ndim(inputs) == dimensions


def unbatch(batches: Iterable[Any]) -> Table:
    """Batches of padded model inputs to one table of unpadded rows.

    Padding is cut off both ends by ``attention_mask``; without one every token is valid.
    Labels are kept: per sample, per token, or as start and end positions. Entries that are no
    model inputs, such as ids, are left out.

    Raises:
        DataError: a batch is no mapping, lacks inputs, or has entries of unequal length.
    """
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(batches):
        if not isinstance(batch, Mapping) or not any(name in batch for name in _INPUTS):
            named = isinstance(batch, Mapping)
            found = f"has {', '.join(batch)}" if named else f"is {type(batch).__name__}"
            raise DataError(f"batch {number} {found}; yield dicts with input_ids or pixel_values")
        known = {name: batch[name] for name in _KNOWN if batch.get(name) is not None}
        sizes = {name: len(value) for name, value in known.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"batch {number} has entries of unequal length ({sizes}); align them")
        rows += (
            _plain(dict(zip(known, row, strict=True))) for row in zip(*known.values(), strict=True)
        )
    return Table.from_rows(rows)


def token_features(
    table: Table, ids: Sequence[int], *, token_labels: bool
) -> list[dict[str, list[int]]]:
    """Token features of the rows ``ids`` of a tokenised table, perhaps with per-token labels."""
    columns = {name: table.column(name, ids) for name in TOKEN_FEATURES if name in table.names}
    columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
    if token_labels and "labels" in table.names:
        columns["labels"] = table.column("labels", ids)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def answer_positions(table: Table, ids: Sequence[int], *, required: bool) -> torch.Tensor | None:
    """int64 ``[rows, 2]`` first and last answer token of the rows ``ids``, if there are any.

    Raises:
        DataError: they are required and absent.
    """
    if not all(name in table.names for name in ANSWER_POSITIONS):
        if required:
            raise DataError("the data are unlabelled; give start_positions and end_positions")
        return None
    return torch.tensor([table.column(name, ids) for name in ANSWER_POSITIONS]).T


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers and lists in place of tensors (but for images), without padding."""
    plain = {
        name: value if name == "pixel_values" else np.asarray(value).tolist()
        for name, value in row.items()
    }
    if "input_ids" in plain and "attention_mask" in plain:
        _unpad(plain)
    return plain


def _unpad(row: dict[str, Any]) -> None:
    valid = [token for token, kept in enumerate(row["attention_mask"]) if kept]
    first, last = (valid[0], valid[-1] + 1) if valid else (0, 0)
    for name in (*TOKEN_FEATURES, "labels"):
        if isinstance(row.get(name), list):
            row[name] = row[name][first:last]
    for name in ANSWER_POSITIONS:
        if name in row:
            row[name] -= first
