"""What methods have found out, kept for runs that differ only in what comes after."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from fastprune.report import Stopwatch

Found = TypeVar("Found")


class Learned:
    """Scores and choosers, of one model and one draw of samples."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[object, Stopwatch]] = {}

    def once(self, key: Hashable, find: Callable[[], Found], watch: Stopwatch) -> Found:
        """What ``find`` returns, called at most once for a key.

        Args:
            key: always of the same function.
            find: that takes long.
            watch: counts what it took as if it had been done now, so that those who come second do
                not look faster than they are alone.
        """
        if key not in self._kept:
            own = Stopwatch()
            with own.stage("search"):
                found = find()
            self._kept[key] = (found, own)
        kept, own = self._kept[key]
        watch.add(own)
        return kept  # type: ignore[return-value]
