"""What a batch keeps on disk: results, logs, and what is known about every job.

    OUT/NAME/…              the job's results, one directory per budget
    OUT/logs/NAME.txt       what its workers printed
    OUT/summary.csv, .json  a row per job and budget
    OUT/.batch/NAME/        job.json: what was asked; outcome.json: how the last attempt ended;
                            finished.json: the budgets that are done

All of it is written whole or not at all, so that whoever is killed leaves nothing half-done.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastprune.atomic import atomic_file
from fastprune.batch.job import Job
from fastprune.compaction.directories import REPORT_NAME, holds_model, read_report
from fastprune.errors import BatchError

_STATE = ".batch"


class Store:
    """The directory of a batch."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out).resolve()

    def check(self) -> None:
        """Refuse a directory that holds something other than a batch.

        Raises:
            BatchError: it does, or it is a file.
        """
        if self.out.exists() and not self.out.is_dir():
            raise BatchError(f"{self.out} is a file; choose another --out")
        if self.out.is_dir() and not (self.out / _STATE).is_dir() and any(self.out.iterdir()):
            raise BatchError(f"{self.out} holds other files; choose a new directory for --out")

    def prepare(self) -> None:
        """Make the directory.

        Raises:
            BatchError: it cannot be made.
        """
        try:
            (self.out / _STATE).mkdir(parents=True, exist_ok=True)
            (self.out / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise BatchError(
                f"cannot write to {self.out} ({error.strerror}); choose a writable --out"
            ) from error

    def directory(self, name: str) -> Path:
        """Where a job's results go."""
        return self.out / name

    def log(self, name: str) -> Path:
        """What a job's workers print."""
        return self.out / "logs" / f"{name}.txt"

    def outcome_path(self, name: str) -> Path:
        """How a job's last attempt ended; absent while it runs."""
        return self.out / _STATE / name / "outcome.json"

    def read_job(self, name: str) -> Job | None:
        """The job as it was last started; None if it never was."""
        note = self._note(name)
        return None if note is None else note[0]

    def write_job(self, job: Job) -> None:
        """Note a job before it starts."""
        if not self._is_noted(job):
            # What is there may be of another job; resuming finds out.
            self.write_finished(job.name, [])
        note = {"job": job.to_dict(), "inputs": _inputs(job)}
        write_text(self.out / _STATE / job.name / "job.json", json.dumps(note, indent=2) + "\n")

    def read_outcome(self, name: str) -> dict[str, Any] | None:
        """How a job's last attempt ended; None if none has, or its worker had no time to say."""
        return self._read(name, "outcome.json", dict)

    def write_outcome(self, name: str, outcome: dict[str, Any]) -> None:
        """Note how an attempt ended."""
        write_text(self.outcome_path(name), json.dumps(outcome, indent=2) + "\n")

    def finished(self, job: Job) -> list[str]:
        """The budgets that are finished, from this very job."""
        noted = self._read(job.name, "finished.json", list) or []
        return [
            budget
            for budget, directory in job.directories().items()
            if budget in noted and self._is_whole(job.name, directory)
        ]

    def _is_whole(self, name: str, directory: str) -> bool:
        path = self.directory(name) / directory
        return (path / REPORT_NAME).is_file() and holds_model(path)

    def write_finished(self, name: str, budgets: Iterable[str]) -> None:
        """Note which budgets of a job are finished."""
        write_text(self.out / _STATE / name / "finished.json", json.dumps(list(budgets)) + "\n")

    def reports(self, job: Job) -> dict[str, dict[str, Any]]:
        """The reports of the finished budgets."""
        found = {
            budget: read_report(self.directory(job.name) / job.directories()[budget])
            for budget in self.finished(job)
        }
        return {budget: report for budget, report in found.items() if report is not None}

    def is_finished(self, job: Job) -> bool:
        """Whether a job need not even start: all is there, from this very model and data."""
        outcome = self.read_outcome(job.name)
        return (
            outcome is not None
            and outcome.get("kind") == "done"
            and self._is_noted(job)
            and len(self.finished(job)) == len(job.budgets)
        )

    def _is_noted(self, job: Job) -> bool:
        """Whether what is noted about a job is about this one, with the files it reads now."""
        note = self._note(job.name)
        return note is not None and note[0].work == job.work and note[1] == _inputs(job)

    def differences(self, job: Job) -> list[str]:
        """What is asked of a job now and was not when its results were made."""
        before = self.read_job(job.name)
        if before is None or not self.directory(job.name).is_dir():
            return []
        old, new = before.work, job.work
        return [
            f"{key} {old.get(key)} -> {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]

    @contextmanager
    def held(self, name: str | None = None, patience: float = 0.0) -> Iterator[None]:
        """Keep others out of the batch, or out of one job of it, while a ``with`` block runs.

        The lock goes with the process that holds it, however that ends.

        Args:
            name: of the job; None for the batch.
            patience: seconds to wait for whoever is there.

        Raises:
            BatchError: somebody else is there.
        """
        path = self.out / _STATE / (name or "") / "lock"
        path.parent.mkdir(exist_ok=True)
        deadline = time.monotonic() + patience
        with path.open("a+", encoding="utf-8") as file:
            while not _lock(file.fileno()):
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    what = f"job {name} in {self.out}" if name else str(self.out)
                    raise BatchError(
                        f"{holder} is at work on {what}; wait for it, or choose another --out"
                    )
                time.sleep(0.1)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def _note(self, name: str) -> tuple[Job, Any] | None:
        """The job as it was last started, and the state of the files it read."""
        found = self._read(name, "job.json", dict)
        if found is None:
            return None
        try:
            return Job.from_dict(found["job"]), found["inputs"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreadable(name, "job.json", error) from error

    def _read(self, name: str, file: str, kind: type) -> Any:
        try:
            value = json.loads((self.out / _STATE / name / file).read_text(encoding="utf-8"))
            if not isinstance(value, kind):
                raise ValueError(f"it holds no {kind.__name__}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._unreadable(name, file, error) from error
        return value

    def _unreadable(self, name: str, file: str, reason: Exception) -> BatchError:
        path = self.out / _STATE / name / file
        return BatchError(f"cannot read {path} ({reason}); delete it to run {name} anew")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def log_tail(path: Path, lines: int = 5) -> list[str]:
    """The last lines of a log that are not empty."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-lines:]


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inputs(job: Job) -> dict[str, list[int]]:
    """Sizes and times of the local files a job reads: cheap, and different once they are."""
    sources = (job.model, job.train, job.eval, job.options.get("latency_table"))
    paths = [Path(source) for source in sources if source is not None]
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]
    stats = {str(file): file.stat() for file in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
