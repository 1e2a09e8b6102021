"""What is seen of a batch while it runs: a line per event, and on a terminal what runs now."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from fastprune.batch.attempt import Ending
from fastprune.batch.job import Job


class Display:
    """Writes to stderr, so that results on stdout stay clean."""

    def __init__(self, jobs: int, finished: int, enabled: bool) -> None:
        """Nothing is shown before the ``with`` block.

        Args:
            jobs: of the batch.
            finished: those that an earlier run has done.
            enabled: whether anything is to be shown.
        """
        self._console = Console(stderr=True, highlight=False, quiet=not enabled)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            Elapsed(),
            console=self._console,
            transient=True,
            disable=not (enabled and self._console.is_terminal),
        )
        self._all = self._bars.add_task("all", total=jobs, completed=finished, unit="jobs")
        self._tasks: dict[str, TaskID] = {}
        self._starts: dict[str, float] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Write a line above the bars."""
        self._console.print(escape(line), soft_wrap=True)

    def started(self, job: Job, attempt: int) -> None:
        """A job has been started."""
        again = f", attempt {attempt}" if attempt > 1 else ""
        self.say(f"{job.name}: started{again}")
        self._starts[job.name] = time.monotonic()
        self._tasks[job.name] = self._bars.add_task(
            job.name, total=len(job.budgets), unit="budgets"
        )

    def progress(self, finished: Mapping[str, int]) -> None:
        """How many budgets of the running jobs are finished."""
        for name, count in finished.items():
            self._bars.update(self._tasks[name], completed=count)

    def ended(self, job: Job, ending: Ending, finished: int, again: bool) -> None:
        """An attempt has ended.

        Args:
            job: that it was at.
            ending: how.
            finished: budgets that are done.
            again: whether there will be another attempt.
        """
        self._bars.remove_task(self._tasks.pop(job.name))
        seconds = time.monotonic() - self._starts[job.name]
        if ending.kind == "done":
            self.say(f"{job.name}: done, {len(job.budgets)} budgets in {seconds:.0f} s")
        else:
            when = "alone, when all others are through" if ending.memory else "later"
            then = f"will be tried again {when}" if again else "given up"
            self.say(
                f"{job.name}: {ending.kind} after {seconds:.0f} s, {finished} of "
                f"{len(job.budgets)} budgets finished; {then} ({ending.error})"
            )
        if not again:
            self._bars.advance(self._all)
