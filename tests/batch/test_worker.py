"""The worker in this process: how it notes its end."""

from __future__ import annotations

import json
import os

import pytest
import torch

from fastprune.batch import worker
from fastprune.batch.attempt import ending_of
from fastprune.batch.job import Job
from fastprune.batch.store import Store
from fastprune.budget import Budget
from fastprune.errors import BatchError, CheckpointError, FastpruneError


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "die_with", lambda parent: True)  # the parent lives on
    monkeypatch.setattr("signal.signal", lambda *_: None)
    store = Store(tmp_path / "out")
    store.prepare()
    store.write_job(Job("a", "model", "sst2", None, (Budget("macs", 0.5),)))
    return store


def attempt(store, run, number=1):
    return worker.main([str(store.out), "a", str(number), str(os.getppid())], run)


def raising(error):
    def run(*_):
        raise error

    return run


def wrapped(cause):
    def run(*_):
        raise CheckpointError("cannot load it") from cause

    return run


@pytest.mark.parametrize(
    ("run", "kind", "error"),
    [
        (lambda *_: None, "done", None),
        (raising(FastpruneError("mend this")), "refused", "mend this"),
        (raising(ValueError("first\nsecond")), "crashed", "ValueError: first"),
        (raising(ValueError()), "crashed", "ValueError"),
        (raising(MemoryError()), "out of memory", "MemoryError"),
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried")), "out of memory", "CUDA"),
        (raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you")), "out of memory",
         "DefaultCPUAllocator"),
        (wrapped(MemoryError()), "out of memory", "CheckpointError: cannot load it"),
    ],
)  # fmt: skip
def test_the_note_says_how_it_ended(store, run, kind, error, capsys):
    status = attempt(store, run, 2)
    assert status == (0 if kind == "done" else 1)
    outcome = store.read_outcome("a")
    assert (outcome["kind"], outcome["attempt"]) == (kind, 2)
    assert outcome["error"] == error or error in outcome["error"]
    assert ("Traceback" in capsys.readouterr().err) == (kind in ("crashed", "out of memory"))


def test_memory_really_runs_out(store):
    """The message of the allocator of this very torch."""
    attempt(store, lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    assert store.read_outcome("a")["kind"] == "out of memory"


def test_an_interrupted_worker_notes_nothing(store):
    assert attempt(store, raising(KeyboardInterrupt())) == 130
    assert store.read_outcome("a") is None


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [(-9, "killed", "SIGKILL"), (-11, "crashed", "SIGSEGV"), (1, "crashed", "status 1")],
)
def test_without_a_note_the_status_speaks(status, kind, reason):
    ending = ending_of(status, None)
    assert ending.kind == kind
    assert reason in ending.error


def test_two_workers_never_share_a_job(store, monkeypatch):
    monkeypatch.setattr(worker, "_PATIENCE", 0.0)
    with store.held("a"):
        attempt(store, lambda *_: None)
    outcome = store.read_outcome("a")
    assert outcome["kind"] == "refused"
    assert f"process {os.getpid()}" in outcome["error"]


def test_two_batches_never_share_a_directory(store):
    with store.held(), pytest.raises(BatchError, match=f"process {os.getpid()} on .* is at work"):
        store.held().__enter__()
    with store.held():
        pass


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BatchError, match="holds other files"):
        Store(tmp_path).check()
    with pytest.raises(BatchError, match="is a file"):
        Store(tmp_path / "notes.txt").check()


def test_a_damaged_note_is_named(store):
    path = store.outcome_path("a")
    path.write_text('{"kind": "do')
    with pytest.raises(BatchError, match="delete it"):
        store.read_outcome("a")
    assert json.loads((path.parent / "job.json").read_text())["job"]["name"] == "a"
