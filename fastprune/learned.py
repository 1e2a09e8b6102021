"""What methods have found out, kept for runs that differ only in what comes after."""

from __future__ import annotations

from collections.abc import Callable

from fastprune.report import Stopwatch
from fastprune.selection import Chooser


class Learned:
    """Choosers by method, of one model and one draw of samples."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Chooser, Stopwatch]] = {}

    def chooser(self, method: str, learn: Callable[[], Chooser], watch: Stopwatch) -> Chooser:
        """The chooser of a method, learned at most once.

        Args:
            method: its name.
            learn: makes the chooser.
            watch: counts what learning took as if it had been done now, so that those who come
                second do not look faster than they are alone.
        """
        if method not in self._kept:
            own = Stopwatch()
            with own.stage("search"):
                chooser = learn()
            self._kept[method] = (chooser, own)
        chooser, own = self._kept[method]
        watch.add(own)
        return chooser
