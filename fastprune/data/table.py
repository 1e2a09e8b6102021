"""Table: rows from any source behind one small face, columns read only when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastprune.errors import DataError

if TYPE_CHECKING:  # it takes long to import
    from datasets import Dataset


class Table:
    """Named columns of equal length.

    Args:
        columns: a ``datasets.Dataset``, or lists by name.
    """

    def __init__(self, columns: Dataset | Mapping[str, list[Any]]) -> None:
        self._columns = columns
        self.names: list[str] = (
            list(columns) if isinstance(columns, Mapping) else columns.column_names
        )

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Table:
        """Rows as mappings; a key that a row lacks reads as ``None``."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        return cls({name: [row.get(name) for row in rows] for name in names})

    def __len__(self) -> int:
        if isinstance(self._columns, Mapping):
            return len(next(iter(self._columns.values()), []))
        return len(self._columns)

    def column(self, name: str, positions: Sequence[int] | None = None) -> list[Any]:
        """The values of one column, at ``positions`` or everywhere."""
        if isinstance(self._columns, Mapping):
            values = self._columns[name]
            return list(values) if positions is None else [values[p] for p in positions]
        part = self._columns.select_columns(name).with_format(None)
        part = part if positions is None else part.select(positions)
        return list(part[:][name])

    def class_names(self, name: str) -> list[str] | None:
        """The names behind an integer label column, where the data set declares them."""
        if isinstance(self._columns, Mapping):
            return None
        from datasets import ClassLabel

        feature = self._columns.features[name]
        return list(feature.names) if isinstance(feature, ClassLabel) else None

    def rename(self, names: Mapping[str, str]) -> Table:
        """The same table with some columns under other names."""
        return Table({names.get(name, name): self.column(name) for name in self.names})


def require_rows(table: Table, origin: str) -> Table:
    """Raise ``DataError`` for a table without rows."""
    if len(table) == 0:
        raise DataError(f"{origin} holds no rows; give data with at least one sample")
    return table
