"""Local files: tsv, csv, json, jsonl and parquet, read through ``datasets``.

That is imported where it is needed: it takes half a second.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastprune.data.table import Table
from fastprune.errors import DataError


def read_file(path: Path) -> Table:
    """Read a data file; its suffix names the format.

    Raises:
        DataError: unknown suffix, no rows, or contents that cannot be decoded.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of no known format; use one of {', '.join(sorted(_READERS))}")
    if path.stat().st_size == 0:
        raise _no_rows(path)
    # In memory and without a lasting cache: nothing stale is read and nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="fastprune-") as cache, _quiet_datasets():
        try:
            table = reader(path, {"cache_dir": cache, "keep_in_memory": True})
        except DataError:
            raise
        except Exception as error:  # datasets wraps the causes of half a dozen libraries
            cause = _root_cause(error)
            if "corresponds to no data" in cause:
                # How datasets puts that a sound file has no rows.
                raise _no_rows(path) from error
            raise DataError(
                f"{path} cannot be read as {path.suffix[1:]} ({cause}); "
                "check that it is complete, UTF-8 and of the format its suffix says"
            ) from error
    if len(table) == 0:
        raise _no_rows(path)
    return table


def _no_rows(path: Path) -> DataError:
    return DataError(f"{path} holds no rows; give data with at least one sample")


def _read_separated(path: Path, options: dict[str, Any], *, tab: bool) -> Table:
    from datasets import Dataset, Features, Value

    # Tab files (GLUE) are unquoted: a lone quote character is part of the sentence.
    dialect: dict[str, Any] = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tab else {"delimiter": ","}
    )
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, **dialect), [])
    if len(set(header)) < len(header):
        raise DataError(f"{path} names a column twice in its first line; rename one")
    # All as text, nothing as missing: "null" and "NA" are words, and labels are read later.
    features = Features({name: Value("string") for name in header})
    return Table(
        Dataset.from_csv(str(path), features=features, keep_default_na=False, **dialect, **options)
    )


def _read_tsv(path: Path, options: dict[str, Any]) -> Table:
    return _read_separated(path, options, tab=True)


def _read_csv(path: Path, options: dict[str, Any]) -> Table:
    return _read_separated(path, options, tab=False)


def _read_parquet(path: Path, options: dict[str, Any]) -> Table:
    from datasets import Dataset

    return Table(Dataset.from_parquet(str(path), **options))


def _read_json(path: Path, options: dict[str, Any]) -> Table:
    """One JSON object per line, one list of objects, or an object with them under ``data``."""
    from datasets import Dataset

    nested = _is_document_with_data(path)
    table = Table(Dataset.from_json(str(path), field="data" if nested else None, **options))
    return _flatten_paragraphs(table) if "paragraphs" in table.names else table


def _is_document_with_data(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
        try:
            document = json.loads(first)
        except json.JSONDecodeError:
            # Not JSON lines, so the whole file is one document.
            document = json.loads(first + file.read())
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def _flatten_paragraphs(table: Table) -> Table:
    """SQuAD as published nests articles, paragraphs and questions; return one row a question."""
    rows = [
        {
            "id": qa["id"],
            "question": qa["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in qa["answers"]],
                "answer_start": [answer["answer_start"] for answer in qa["answers"]],
            },
        }
        for paragraphs in table.column("paragraphs")
        for paragraph in paragraphs
        for qa in paragraph["qas"]
    ]
    return Table.from_rows(rows)


_READERS: dict[str, Callable[[Path, dict[str, Any]], Table]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
"""Of the files that can be read."""


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    enabled = not datasets.are_progress_bars_disabled()
    level = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if enabled:
            datasets.enable_progress_bars()


def _root_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split()) or type(error).__name__
