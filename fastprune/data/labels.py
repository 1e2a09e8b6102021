"""Label columns to tensors, checked against what the model can predict."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from fastprune.errors import DataError


def class_labels(
    values: Sequence[Any], config: Any, names: Sequence[str] | None = None
) -> torch.Tensor:
    """Classes as int64 ``[rows]``.

    Integers stand for themselves; names go through the model's ``label2id``.

    Args:
        values: one label per row, as integers, numerals or names.
        config: the model's configuration; ``None`` leaves the range unchecked.
        names: what the data set calls its classes 0, 1, …. If the model uses the same names
            in another order, the model's order wins.

    Raises:
        DataError: a label is missing or the model does not have it.
    """
    label2id: Mapping[str, int] = getattr(config, "label2id", None) or {}
    classes = getattr(config, "num_labels", None)
    by_name = {name.casefold(): index for name, index in label2id.items()}
    renumber: dict[Any, int] = {}
    if names and {name.casefold() for name in names} == set(by_name):
        renumber = {index: by_name[name.casefold()] for index, name in enumerate(names)}
    resolved: dict[Any, int] = {}  # few distinct labels, many rows
    result = []
    for row, value in enumerate(values):
        if not isinstance(value, Hashable):
            raise DataError(_bad_class(value, row, classes, label2id))
        if value not in resolved:
            index = renumber.get(value, _class_index(value, by_name))
            if index is None or index < 0 or (classes is not None and index >= classes):
                raise DataError(_bad_class(value, row, classes, label2id))
            resolved[value] = index
        result.append(resolved[value])
    return torch.tensor(result, dtype=torch.int64)


def targets(values: Sequence[Any]) -> torch.Tensor:
    """Regression targets as float32 ``[rows]``.

    Raises:
        DataError: a target is missing or not a finite number.
    """
    numbers = []
    for row, value in enumerate(values):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise DataError(f"row {row} has the target {value!r}; give a finite number")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.float32)


def _class_index(value: Any, by_name: Mapping[str, int]) -> int | None:
    if isinstance(value, str) and value.strip().casefold() in by_name:
        return by_name[value.strip().casefold()]
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _bad_class(value: Any, row: int, classes: int | None, label2id: Mapping[str, int]) -> str:
    if value is None or value == "" or value == -1:
        return f"row {row} is unlabelled (label {value!r}); give labelled data"
    known = "" if classes is None else f"; the model has 0 to {classes - 1}"
    # Placeholder names such as LABEL_0 tell nobody anything.
    if label2id and not all(name.startswith("LABEL_") for name in label2id):
        known += f" ({', '.join(label2id)})"
    return f"row {row} has the label {value!r}{known}; correct it or name another label_column"
