"""One attempt at a job: how it is started in a process of its own, and how it ended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastprune.batch.job import Job
from fastprune.batch.store import Store

Kind = Literal["done", "refused", "out of memory", "killed", "crashed"]

WORKER = (sys.executable, "-m", "fastprune.batch.worker")
"""The program that does a job; see :mod:`fastprune.batch.worker`."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        kind: ``"refused"`` is an error that the user has to mend: trying again is of no use.
        error: one line; None when it is done.
    """

    kind: Kind
    error: str | None = None

    @property
    def final(self) -> bool:
        """Whether another attempt would end the same way."""
        return self.kind in ("done", "refused")

    @property
    def memory(self) -> bool:
        """Whether it may have been a lack of memory."""
        return self.kind in ("out of memory", "killed")


@dataclass(frozen=True)
class Launch:
    """How to start an attempt.

    Attributes:
        command: to which the starting process appends its own id.
        environment: on top of the starting process's.
        log: to which all output is appended.
        outcome: where the worker notes how it ended.
    """

    command: list[str]
    environment: dict[str, str]
    log: Path
    outcome: Path


def prepare(
    job: Job, attempt: int, store: Store, threads: int, worker: Sequence[str] = WORKER
) -> Launch:
    """Note the job for its worker, and say how to start that.

    Args:
        job: to do.
        attempt: 1 for the first.
        store: of the batch.
        threads: that it may keep busy.
        worker: the program.
    """
    store.write_job(job)
    store.outcome_path(job.name).unlink(missing_ok=True)
    count = str(threads)
    return Launch(
        command=[*worker, str(store.out), job.name, str(attempt)],
        environment={"OMP_NUM_THREADS": count, "RAYON_NUM_THREADS": count},
        log=store.log(job.name),
        outcome=store.outcome_path(job.name),
    )


def ending_of(status: int, outcome: dict[str, Any] | None) -> Ending:
    """What a worker's exit status and its note say; the status counts where there is no note.

    Args:
        status: as ``subprocess`` gives it, negative for a signal.
        outcome: the note, if there is one.
    """
    if outcome is not None:
        return Ending(outcome["kind"], outcome["error"])
    if status == -signal.SIGKILL:
        return Ending("killed", "the worker was killed (SIGKILL), perhaps for want of memory")
    if status < 0:
        return Ending("crashed", f"the worker died of {signal.Signals(-status).name}")
    return Ending("crashed", f"the worker stopped with status {status} and said nothing")
