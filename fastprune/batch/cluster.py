"""Attempts as tasks of a Ray cluster. The directory of the batch must be on a shared file system.

A task only starts the same worker process that runs on one machine, so isolation, logs and notes
are the same. Ray is told never to retry: which job is tried again is decided in one place.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastprune.batch.attempt import WORKER, Ending, ending_of, prepare
from fastprune.batch.job import Job
from fastprune.batch.store import Store
from fastprune.errors import BatchError

HERE = "local"
"""The address of a cluster that is started on this machine for this batch alone."""

_PATIENCE = 5.0
"""Seconds for a cluster to answer. Ray itself would wait for minutes."""


class RayExecutor:
    """Runs every attempt as a Ray task that holds the job's cpus and gpus."""

    def __init__(self, store: Store, address: str = HERE, worker: Sequence[str] = WORKER) -> None:
        """Connect.

        Args:
            store: of the batch, under the same path on every node.
            address: ``host:port``, ``ray://host:port``, ``auto`` for a cluster of this machine's,
                or ``local`` to start one.
            worker: the program of an attempt.

        Raises:
            BatchError: Ray is missing, or the cluster does not answer.
        """
        self._ray = _import_ray()
        self._store, self._worker = store, worker
        self._running: dict[Any, str] = {}
        _connect(self._ray, address)
        self._task = self._ray.remote(_task())

    def check(self, job: Job) -> None:
        """Refuse a job that no node has room for: Ray would let it wait for ever."""
        cpus, gpus = self._needs(job)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus for n in nodes):
            raise BatchError(
                f"{job.place}: job {job.name} asks for {cpus} cpus and {gpus:g} gpus, which no "
                "node of the Ray cluster has; ask for less under 'resources:'"
            )

    def start(self, job: Job, attempt: int) -> bool:
        """Hand an attempt to Ray, which lets it wait for room."""
        cpus, gpus = self._needs(job)
        launch = prepare(job, attempt, self._store, cpus, self._worker)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "name": job.name}
        task = self._task.options(**options).remote(
            launch.command, launch.environment, str(launch.log), str(launch.outcome)
        )
        self._running[task] = job.name
        return True

    def ended(self) -> list[tuple[str, Ending]]:
        """Ask Ray which tasks have ended."""
        if not self._running:
            return []
        tasks = list(self._running)
        ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [(self._running.pop(task), self._ending(task)) for task in ready]

    def stop(self) -> None:
        """Cancel all tasks and disconnect."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        self._ray.shutdown()

    def _ending(self, task: Any) -> Ending:
        try:
            status, outcome = self._ray.get(task)
        except self._ray.exceptions.OutOfMemoryError:
            return Ending("out of memory", "Ray ended the task: its node was short of memory")
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            return Ending("crashed", f"Ray lost the task ({type(error).__name__}: {reason})")
        return ending_of(status, None if outcome is None else json.loads(outcome))

    def _needs(self, job: Job) -> tuple[int, float]:
        """Cores and GPUs of a job: one core unless it says more, a GPU where it asks for one."""
        cuda = job.options.get("device") == "cuda"
        gpus = job.resources.gpus if job.resources.gpus is not None else float(cuda)
        return job.resources.cpus or 1, gpus


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise BatchError("--ray needs Ray: pip install ray") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False} if address == HERE else {}
    _check_reachable(address)
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False, **own)
    except Exception as error:  # Ray's own, gRPC's, and plain ones
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BatchError(
            f"cannot connect to Ray at {address!r} ({lines[0]}); start a cluster with 'ray start "
            "--head', or give --ray alone for one on this machine"
        ) from error


def _check_reachable(address: str) -> None:
    """Knock before Ray does: where nobody is, it waits for minutes."""
    if address in (HERE, "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise BatchError(f"--ray {address!r} is no address; write host:port, such as head:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise BatchError(
            f"no Ray cluster answers at {address} ({error}); check host and port, and that the "
            "cluster is up"
        ) from error


def _task() -> Any:
    """What Ray runs. A closure is sent by value, so a node loads fastprune in the worker alone."""

    def run_worker(
        command: list[str], environment: dict[str, str], log: str, outcome: str
    ) -> tuple[int, str | None]:
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [*command, str(os.getpid())],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            status = process.wait()
        note = Path(outcome)
        # Read here: other machines may see the file a little later.
        return status, note.read_text(encoding="utf-8") if note.is_file() else None

    return run_worker
