"""What runs attempts: this machine, or a cluster."""

from __future__ import annotations

from typing import Protocol

from fastprune.batch.attempt import Ending
from fastprune.batch.job import Job


class Executor(Protocol):
    """Runs attempts side by side. It decides nothing: policy is the scheduler's."""

    def check(self, job: Job) -> None:
        """Refuse a job that there would never be room for.

        Raises:
            BatchError: with the job's line.
        """

    def start(self, job: Job, attempt: int) -> bool:
        """Start an attempt, unless there is no room just now."""

    def ended(self) -> list[tuple[str, Ending]]:
        """The names of the jobs whose attempt has ended since the last call, and how."""

    def stop(self) -> None:
        """End all attempts that still run, and give everything back."""
