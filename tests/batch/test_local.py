"""Processes on this machine: how many at once, with what, and how they are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastprune.batch import local
from fastprune.batch.job import Job, Resources
from fastprune.batch.local import LocalExecutor
from fastprune.batch.store import Store
from fastprune.budget import Budget
from fastprune.errors import BatchError

# Workers that need no torch: they say what they were given, and then wait, or do not listen.
WAITS = (sys.executable, "-c", "import os, time; print(dict(os.environ)); time.sleep(60)")
DEAF = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "
    "time.sleep(60)",
)
ENDS = (sys.executable, "-c", "raise SystemExit(7)")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


@pytest.fixture
def machine(monkeypatch):
    """Pretend to have this many cores and GPUs."""

    def machine(cores: int, gpus: int = 0) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(local, "_gpu_names", lambda: [str(i) for i in range(gpus)])

    return machine


def job(name: str, **options) -> Job:
    resources = Resources(options.pop("cpus", None), options.pop("gpus", None))
    return Job(
        name,
        "model",
        "sst2",
        None,
        (Budget("macs", 0.5),),
        options,
        resources,
        place="jobs.yaml, line 3",
    )


def started(monkeypatch, executor: LocalExecutor, jobs: list[Job]) -> dict[str, dict[str, str]]:
    """The environments of the jobs that were started; no process is."""
    seen: dict[str, dict[str, str]] = {}

    class Idle:
        returncode = 0

        def poll(self):
            return None

        terminate = kill = wait = poll

    def spawn(launch):
        seen[launch.command[-2]] = launch.environment
        return Idle()

    monkeypatch.setattr(local, "spawn", spawn)
    for each in jobs:
        executor.start(each, 1)
    return seen


@pytest.mark.parametrize(
    ("cores", "gpus", "workers", "at_once", "threads"),
    [
        (2, 0, None, 1, 2),
        (16, 0, None, 4, 4),
        (16, 2, None, 2, 8),
        (2, 0, 5, 5, 1),
        (7, 0, 2, 2, 3),
    ],
)
def test_defaults_do_not_oversubscribe(
    store, machine, monkeypatch, cores, gpus, workers, at_once, threads
):
    machine(cores, gpus)
    jobs = [job(str(i)) for i in range(9)]
    seen = started(monkeypatch, LocalExecutor(store, workers), jobs)
    assert len(seen) == at_once
    assert {env["OMP_NUM_THREADS"] for env in seen.values()} == {str(threads)}


def test_every_worker_has_a_gpu_of_its_own(store, machine, monkeypatch):
    machine(16, 3)
    jobs = [job("a", gpus=2.0), job("b"), job("c"), job("d", device="cpu", cpus=1)]
    seen = started(monkeypatch, LocalExecutor(store), jobs)
    # c finds all GPUs taken, d needs none.
    assert {name: env["CUDA_VISIBLE_DEVICES"] for name, env in seen.items()} == {
        "a": "0,1", "b": "2", "d": "",
    }  # fmt: skip


def test_more_workers_than_gpus_share_them(store, machine, monkeypatch):
    machine(16, 2)
    jobs = [job(name) for name in "abcd"]
    seen = started(monkeypatch, LocalExecutor(store, 4), jobs)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen.values()] == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"cpus": 3}, "3 cpus"), ({"gpus": 2.0}, "a GPU"), ({"gpus": 0.5}, "a GPU"),
     ({"device": "cuda"}, "a GPU")],
)  # fmt: skip
def test_a_job_that_never_has_room_is_refused_with_its_line(store, machine, options, reason):
    machine(2)
    with pytest.raises(BatchError, match=f"jobs.yaml, line 3: .*{reason}"):
        LocalExecutor(store).check(job("a", **options))


def test_workers_must_be_a_number(store):
    with pytest.raises(BatchError, match="workers"):
        LocalExecutor(store, 0)


def test_cores_are_given_back(store, machine):
    machine(2)
    executor = LocalExecutor(store, 2, ENDS)
    assert executor.start(job("a", cpus=2), 1)
    assert not executor.start(job("b"), 1)
    while not (over := executor.ended()):
        time.sleep(0.02)
    ((name, ending),) = over
    assert (name, ending.kind) == ("a", "crashed")
    assert "status 7" in ending.error
    assert executor.start(job("b"), 1)
    executor.stop()


@pytest.mark.parametrize("worker", [WAITS, DEAF], ids=["waits", "deaf"])
def test_stopping_ends_every_worker(store, monkeypatch, worker):
    monkeypatch.setattr(local, "_GRACE", 0.5)
    executor = LocalExecutor(store, 2, worker)
    assert all(executor.start(job(name, cpus=1), 1) for name in "ab")
    if worker is DEAF:
        while b"deaf" not in store.log("b").read_bytes():
            time.sleep(0.02)
    processes = [run.process for run in executor._running.values()]
    executor.stop()
    assert all(process.returncode is not None for process in processes)


def test_a_worker_dies_with_the_process_that_started_it(tmp_path):
    """The kernel sees to it, whatever the worker is busy with."""
    child = tmp_path / "child.py"
    child.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(local.__file__).parent)!r})\n"
        "import lifeline\n"
        "print(lifeline.die_with(int(sys.argv[1])), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid())])\n"
            "print(child.pid, flush=True)\n"
            "child.wait()",
            str(child),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = [parent.stdout.readline().strip() for _ in range(2)]
    assert "True" in lines
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # The child held the other end of the pipe, and would for a minute.
    start = time.monotonic()
    assert parent.stdout.read() == ""
    assert time.monotonic() - start < 30
