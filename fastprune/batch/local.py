"""Attempts as processes on this machine, as many as its cores and GPUs have room for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastprune.batch.attempt import WORKER, Ending, Launch, ending_of, prepare
from fastprune.batch.job import Job
from fastprune.batch.store import Store
from fastprune.errors import BatchError

_THREADS = 4
"""Threads of a worker where nothing else is said: more help little on short sequences."""
_GRACE = 10.0
"""Seconds that workers get to leave in good order."""


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    cpus: int
    gpus: dict[str, float]


class LocalExecutor:
    """Runs every attempt in a process of its own."""

    def __init__(
        self, store: Store, workers: int | None = None, worker: Sequence[str] = WORKER
    ) -> None:
        """Nothing is started yet.

        Args:
            store: of the batch.
            workers: processes at once; by default one per GPU, without GPUs one per four cores.
            worker: the program they run.

        Raises:
            BatchError: not a number of workers.
        """
        if workers is not None and workers < 1:
            raise BatchError(f"workers must be a whole number from 1 on, got {workers}")
        self._store, self._worker = store, worker
        cores = len(os.sched_getaffinity(0))
        self._gpus = dict.fromkeys(_gpu_names(), 1.0)
        self._workers = workers or len(self._gpus) or max(1, cores // _THREADS)
        # Whoever asks for more workers than cores gets them.
        self._cores = self._cpus = max(cores, self._workers)
        self._running: dict[str, _Running] = {}

    def check(self, job: Job) -> None:
        """Refuse a job that this machine has no room for."""
        cpus, gpus = self._needs(job)
        if cpus > self._cores:
            raise BatchError(
                f"{job.place}: job {job.name} asks for {cpus} cpus, but there are {self._cores}; "
                "ask for less"
            )
        if gpus > len(self._gpus) or (job.options.get("device") == "cuda" and not gpus):
            raise BatchError(
                f"{job.place}: job {job.name} asks for a GPU, or more of them than the "
                f"{len(self._gpus)} that torch sees; use device: cpu, or a torch built for your "
                "driver"
            )

    def start(self, job: Job, attempt: int) -> bool:
        """Start a process, unless all workers, cores or GPUs are taken."""
        cpus, gpus = self._needs(job)
        if len(self._running) >= self._workers or cpus > self._cpus:
            return False
        share = gpus if gpus < 1 else 1.0
        free = [name for name, room in self._gpus.items() if room >= share - 1e-9]
        taken = free[: max(1, round(gpus))] if gpus else []
        if len(taken) < gpus:
            return False
        launch = prepare(job, attempt, self._store, cpus, self._worker)
        launch.environment["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
        process = spawn(launch)
        for name in taken:
            self._gpus[name] -= share
        self._cpus -= cpus
        self._running[job.name] = _Running(process, cpus, dict.fromkeys(taken, share))
        return True

    def ended(self) -> list[tuple[str, Ending]]:
        """Look which processes have ended."""
        over = {name: run for name, run in self._running.items() if run.process.poll() is not None}
        for name, run in over.items():
            del self._running[name]
            self._cpus += run.cpus
            for gpu, share in run.gpus.items():
                self._gpus[gpu] += share
        return [
            (name, ending_of(run.process.returncode, self._store.read_outcome(name)))
            for name, run in over.items()
        ]

    def stop(self) -> None:
        """Terminate the processes, and kill those that do not leave."""
        processes = [run.process for run in self._running.values()]
        self._running.clear()
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _GRACE
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in processes:
            process.kill()
            process.wait()

    def _needs(self, job: Job) -> tuple[int, float]:
        """Cores and GPUs of a job."""
        cpus, gpus = job.resources.cpus, job.resources.gpus
        if gpus is None:
            per_gpu = -(-self._workers // len(self._gpus)) if self._gpus else 1
            wants = bool(self._gpus) and job.options.get("device") != "cpu"
            gpus = 1 / per_gpu if wants else 0.0
        return cpus or max(1, self._cores // self._workers), gpus


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """Start an attempt as a child of this process."""
    with launch.log.open("ab") as log:
        return subprocess.Popen(
            [*launch.command, str(os.getpid())],
            env={**os.environ, **launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt goes to the driver alone, which sees to the rest
        )


def _gpu_names() -> list[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(torch.cuda.device_count())]
    return names if visible is None else visible.split(",")[: len(names)]
