"""From whatever a user hands over to a :class:`Table`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader

from fastprune.data.files import read_file
from fastprune.data.hub import HubTask, find_task, read_hub
from fastprune.data.table import Table, require_rows
from fastprune.data.tokenized import is_batch, unbatch
from fastprune.errors import DataError

Split = Literal["train", "eval"]


def read_source(source: Any, split: Split) -> tuple[Table, HubTask | None]:
    """Rows of any source, and what is known about them if they are a hub task.

    Raises:
        DataError: the source is of no known kind, empty, or cannot be read.
    """
    if isinstance(source, (str, Path)):
        return _named(source, split)
    from datasets import Dataset, DatasetDict  # takes long to import

    if isinstance(source, DatasetDict):
        raise DataError(
            f"the data are a DatasetDict; pass one of its splits: {', '.join(map(str, source))}"
        )
    if isinstance(source, Dataset):
        return require_rows(Table(source), "the Dataset"), None
    if isinstance(source, DataLoader):
        return require_rows(unbatch(source), "the DataLoader"), None
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return _items(source), None
    raise DataError(
        f"data of type {type(source).__name__} are not understood; give a file, a task name, "
        "a Dataset, a DataLoader, or a list of texts or dicts"
    )


def _named(source: str | Path, split: Split) -> tuple[Table, HubTask | None]:
    path = Path(source)
    if path.is_file():
        return read_file(path), None
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a data file")
    if isinstance(source, Path) or path.suffix:
        raise DataError(f"there is no file {path}; check the path")
    task = find_task(source)
    return require_rows(read_hub(task, split), f"task {source}"), task


def _items(source: Iterable[Any]) -> Table:
    items = iter(source)
    first = next(items, None)
    if first is None:
        raise DataError("the data hold no samples; give at least one")
    if is_batch(first):
        return unbatch(chain([first], items))
    rows = [first, *items]
    kind = str if isinstance(first, str) else Mapping
    for number, row in enumerate(rows):
        if not isinstance(row, kind):
            raise DataError(
                f"row {number} is {type(row).__name__}; give all rows as texts or all as dicts"
            )
    return Table({"text": rows}) if kind is str else Table.from_rows(rows)
