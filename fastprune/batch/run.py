"""A batch from the job file to the summary: the only module here that knows the whole way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastprune.batch.attempt import Ending
from fastprune.batch.cluster import RayExecutor
from fastprune.batch.display import Display
from fastprune.batch.executor import Executor
from fastprune.batch.job import Job
from fastprune.batch.jobfile import read_job_file
from fastprune.batch.local import LocalExecutor
from fastprune.batch.schedule import Schedule
from fastprune.batch.store import Store
from fastprune.batch.summary import Summary, summarise, write_summary
from fastprune.distributed import current_group
from fastprune.errors import BatchError

_PAUSE = 0.1
"""Seconds between two looks at what runs."""


def run_batch(
    job_file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    retries: int = 2,
    ray: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Summary:
    """Run every job of a job file that is not finished yet.

    Each runs in a process of its own, and each of its budgets is on disk once it is finished.
    Killing anything at any moment loses nothing finished; the same call goes on where it stopped.

    Args:
        job_file: YAML; see ``docs/many-models.md``.
        out: directory for results, logs and the summary; by default the one the file names.
        workers: processes at once on this machine; by default one per GPU, without GPUs one per
            four cores.
        retries: further attempts at a job that crashed, was killed or ran out of memory.
        ray: address of a Ray cluster to run on, ``"local"`` to start one on this machine; None for
            processes of this machine.
        overwrite: replace results of jobs whose model, data or options are others now.
        progress: write to stderr what happens.

    Returns:
        A row per job and budget; jobs that failed are listed, not raised.

    Raises:
        FastpruneError: nothing could be started, and nothing was.
    """
    if current_group().size > 1:
        raise BatchError("a batch starts processes of its own; run it without torchrun")
    file = read_job_file(Path(job_file))
    where = out if out is not None else file.out
    if where is None:
        raise BatchError(f"{job_file} names no 'out:'; say where results go (--out DIR)")
    if ray is not None and workers is not None:
        raise BatchError("workers are for this machine; with Ray, give jobs 'resources:' instead")
    store = Store(where)

    def executor() -> Executor:
        return LocalExecutor(store, workers) if ray is None else RayExecutor(store, ray)

    return run_jobs(
        file.jobs, store, executor, retries=retries, overwrite=overwrite, progress=progress
    )


def run_jobs(
    jobs: list[Job],
    store: Store,
    executor: Callable[[], Executor],
    *,
    retries: int = 2,
    overwrite: bool = False,
    progress: bool = False,
) -> Summary:
    """Run jobs on any executor; see :func:`run_batch`.

    Args:
        jobs: with distinct names.
        store: of the batch.
        executor: makes what runs them, once the jobs and the directory are known to be right.
        retries: see :func:`run_batch`, as all below.
        overwrite: ibidem.
        progress: ibidem.
    """
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise BatchError(f"retries must be a whole number from 0 on, got {retries}")
    store.check()
    if overwrite:
        jobs = [replace(job, overwrite=True) for job in jobs]
    else:
        _refuse_changes(jobs, store)
    runner = executor()
    try:
        for job in jobs:
            if not store.is_finished(job):
                runner.check(job)
        store.prepare()
        with store.held():
            return _Batch(jobs, store, runner, retries, progress).run()
    finally:
        runner.stop()


def _refuse_changes(jobs: list[Job], store: Store) -> None:
    for job in jobs:
        if differences := store.differences(job):
            raise BatchError(
                f"{job.place}: {store.directory(job.name)} holds results of another job "
                f"({', '.join(differences)}); choose another name or --out, or allow replacing "
                "them (--overwrite)"
            )


class _Batch:
    """The loop: start what there is room for, see what has ended, write down what is known."""

    def __init__(
        self,
        jobs: list[Job],
        store: Store,
        runner: Executor,
        retries: int,
        progress: bool,
    ) -> None:
        self._jobs, self._store, self._runner = jobs, store, runner
        open_jobs = [job for job in jobs if not store.is_finished(job)]
        self._schedule = Schedule(open_jobs, retries)
        self._states = dict.fromkeys((job.name for job in jobs), "done")
        self._states.update((job.name, "waiting") for job in open_jobs)
        self._endings: dict[str, Ending] = {}
        self._running: dict[str, Job] = {}
        self._finished = len(jobs) - len(open_jobs)
        self._display = Display(len(jobs), self._finished, progress)

    def run(self) -> Summary:
        """Run until nothing is left to start."""
        with self._display as display:
            if self._finished:
                display.say(f"{self._finished} of {len(self._jobs)} jobs were finished before")
            summary = self._note()
            while len(self._schedule) or self._running:
                self._start()
                ended = self._runner.ended()
                for name, ending in ended:
                    self._end(self._running.pop(name), ending)
                if ended:
                    summary = self._note()
                display.progress(
                    {name: len(self._store.finished(j)) for name, j in self._running.items()}
                )
                time.sleep(_PAUSE)
        return summary

    def _start(self) -> None:
        while (job := self._schedule.next(len(self._running))) is not None:
            attempt = self._schedule.attempts[job.name] + 1
            if not self._runner.start(job, attempt):
                return
            self._schedule.started(job)
            self._running[job.name] = job
            self._states[job.name] = "running"
            self._display.started(job, attempt)

    def _end(self, job: Job, ending: Ending) -> None:
        again = self._schedule.ended(job, ending)
        self._endings[job.name] = ending
        self._states[job.name] = "waiting" if again else ending.kind
        self._display.ended(job, ending, len(self._store.finished(job)), again)

    def _note(self) -> Summary:
        """Written after every job, so that a killed driver leaves a summary that is up to date."""
        summary = summarise(
            self._jobs, self._store, self._states, self._endings, self._schedule.attempts
        )
        write_summary(summary, self._store)
        return summary
