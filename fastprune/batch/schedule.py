"""Which job is started next, and which is tried again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from fastprune.batch.attempt import Ending
from fastprune.batch.job import Job


class Schedule:
    """Jobs in order of the file; what failed comes last, and alone if it may lack memory.

    An attempt that ended for want of memory is made again when all others are through, with
    nothing beside it. Any other crash is made again in turn. An error that the user has to mend is
    not made again.
    """

    def __init__(self, jobs: Iterable[Job], retries: int) -> None:
        """Every job waits.

        Args:
            jobs: to run.
            retries: further attempts for each.
        """
        self._waiting = deque(jobs)
        self._alone: deque[Job] = deque()
        self._retries = retries
        self.attempts: Counter[str] = Counter()

    def next(self, running: int) -> Job | None:
        """The job to start beside ``running`` others, if one may start now."""
        if self._waiting:
            return self._waiting[0]
        return self._alone[0] if self._alone and not running else None

    def started(self, job: Job) -> None:
        """Note that the next job runs."""
        (self._waiting or self._alone).popleft()
        self.attempts[job.name] += 1

    def ended(self, job: Job, ending: Ending) -> bool:
        """Note how an attempt ended; whether another one will be made."""
        if ending.final or self.attempts[job.name] > self._retries:
            return False
        (self._alone if ending.memory else self._waiting).append(job)
        return True

    def __len__(self) -> int:
        return len(self._waiting) + len(self._alone)
