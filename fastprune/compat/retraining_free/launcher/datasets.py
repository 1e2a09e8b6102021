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

    splits = DatasetDict({path.stem: _dataset(path) for path in files})
    with attribute(datasets, "load_dataset", lambda *_, **__: splits):
        yield


def _dataset(path: Path) -> Dataset:
    table = read_file(path)
    columns = {name: table.column(name) for name in table.names}
    if "label" in columns:
        try:
            columns["label"] = _numbers(columns["label"])
        except ValueError:
            raise DataError(
                f"column 'label' of {path} holds more than numbers; write classes as 0, 1, …"
            ) from None
    return Dataset.from_dict(columns)


def _numbers(labels: list[Any]) -> list[Any]:
    """Labels as numbers: text files hold them as text. Targets such as 5.0 are no classes."""
    texts = [str(label) for label in labels]
    return [int(text) for text in texts] if all(map(_whole, texts)) else list(map(float, texts))


def _whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
