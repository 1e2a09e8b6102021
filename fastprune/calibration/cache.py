"""Statistics on disk, by what they were collected from, so that nobody waits for them twice."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from fastprune.calibration.statistics import Statistics
from fastprune.errors import CheckpointError

_LONGEST_WRITE = 3600.0
"""Seconds after which a file that is not finished was left by a process that was killed."""
LARGEST_CACHE = 10 << 30
"""Bytes; beyond it, statistics that have not been used for longest are removed."""


def cache_directory() -> Path:
    """``$FASTPRUNE_CACHE``, or a folder of its own among the user's caches."""
    named = os.environ.get("FASTPRUNE_CACHE")
    return Path(named) if named else user_cache_path("fastprune")


class StatisticsCache:
    """A directory of statistics. What it cannot read or write, it does without."""

    def __init__(self, directory: Path) -> None:
        """Nothing is touched before it is asked for."""
        self._directory = directory / "statistics"

    def load(self, key: str) -> Statistics | None:
        """What was stored under ``key``; None where there is nothing, or nothing whole."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            statistics = Statistics.load(path)
        except CheckpointError:
            return None  # collected again, and replaced
        with suppress(OSError):
            os.utime(path)
        return statistics

    def store(self, key: str, statistics: Statistics) -> None:
        """Keep statistics, and warn where that fails: a run does not depend on it."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            statistics.save(self._path(key))
            self._make_room()
        except (OSError, CheckpointError) as error:
            warnings.warn(
                f"statistics are not cached: {error}; FASTPRUNE_CACHE names another place",
                stacklevel=2,
            )

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.safetensors"

    def _make_room(self) -> None:
        found = []
        for path in self._directory.iterdir():
            with suppress(FileNotFoundError):  # other processes make room as well
                found.append((path, path.stat()))
        found.sort(key=lambda entry: entry[1].st_mtime, reverse=True)
        kept, now = 0, time.time()
        for number, (path, stat) in enumerate(found):
            kept += stat.st_size
            left_over = path.suffix == ".partial" and now - stat.st_mtime > _LONGEST_WRITE
            if left_over or (number and kept > LARGEST_CACHE):
                path.unlink(missing_ok=True)
