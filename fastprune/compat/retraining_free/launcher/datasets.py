"""What the original asks of ``datasets``: metrics that are gone, and data that may be local."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict

from fastprune.compat.retraining_free.launcher.attributes import attribute
from fastprune.compat.retraining_free.launcher.metrics import load_metric
from fastprune.data.files import SUFFIXES, read_file
from fastprune.data.table import Table
from fastprune.errors import DataError


@contextmanager
def metrics_available() -> Iterator[None]:
    """Within the context, there is ``datasets.load_metric``, which datasets 3 has dropped."""
    with attribute(datasets, "load_metric", load_metric):
        yield


@contextmanager
def local_data(directory: Path) -> Iterator[None]:
    """Within the context, ``datasets.load_dataset`` gives the files in ``directory``.

    Each is one split, named by the file (``train.tsv``, ``validation.tsv``); columns must be those
    of the task (``sentence`` and ``label`` for SST-2).

    Raises:
        DataError: no files, or some that cannot be read.
    """
    files = sorted(path for path in directory.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{directory} holds no data; put files there that are named after their splits, such "
            "as train.tsv and validation.tsv"
        )

    def load_dataset(*_: Any, **__: Any) -> DatasetDict:
        return DatasetDict({path.stem: _dataset(path) for path in files})

    with attribute(datasets, "load_dataset", load_dataset):
        yield


def _dataset(path: Path) -> Dataset:
    table = read_file(path)
    columns = {name: table.column(name) for name in table.names}
    if "label" in columns:
        columns["label"] = _numbers(path, table)
    return Dataset.from_dict(columns)


def _numbers(path: Path, table: Table) -> list[Any]:
    """Labels as numbers: text files hold them as text."""
    try:
        numbers = [float(label) for label in table.column("label")]
    except (TypeError, ValueError):
        raise DataError(
            f"column 'label' of {path} holds more than numbers; write classes as 0, 1, …"
        ) from None
    # One fraction makes the task a regression, and all labels fractions.
    return [int(n) for n in numbers] if all(n.is_integer() for n in numbers) else numbers
