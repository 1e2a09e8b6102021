"""Drivers and workers killed for real, in the middle of a job: nothing finished is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import held_driver
import pytest

import fastprune

JOBS = """\
defaults: {train: train.tsv, eval: eval.tsv, samples: 16, latency: false, cache: cache}
jobs:
  - {model: models/first, budgets: [macs=0.7, macs=0.5, macs=0.4]}
"""
BUDGETS = ["macs-0.4", "macs-0.5", "macs-0.7"]


@pytest.fixture
def batch(zoo, tmp_path, monkeypatch):
    """A job file beside the models and data, and a directory that says who has to wait."""
    for name in ("models", "train.tsv", "eval.tsv"):
        (tmp_path / name).symlink_to(zoo / name)
    (tmp_path / "jobs.yaml").write_text(JOBS)
    (tmp_path / "hold").mkdir()
    (tmp_path / "hold" / "first").touch()
    monkeypatch.setenv("HOLD_DIR", str(tmp_path / "hold"))
    return tmp_path


def wait_for(condition, seconds: float = 90.0):
    """What a condition gives once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def held_worker(batch: Path) -> int:
    """The id of the worker that waits after its first budget."""
    held = batch / "hold" / "first.held"
    return int(wait_for(lambda: held.exists() and held.read_text()))


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """What changes when a finished model is touched or replaced."""
    files = (out / "first").glob("macs-*/*")
    return {str(f.relative_to(out)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def check_finished(batch: Path, summary, first: dict[str, tuple[int, int]]) -> None:
    """All is there, and what was finished before the kill has not been touched."""
    out = batch / "out"
    assert summary.failed == {}
    assert [row.state for row in summary.rows] == ["done"] * 3
    assert sorted(path.name for path in (out / "first").glob("macs-*")) == BUDGETS
    assert len({name.split("/")[1] for name in first}) == 1
    assert first.items() <= stamps(out).items()
    assert not list((out / "first").glob(".*"))
    for row in summary.rows:
        fastprune.load_pretrained(row.directory)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(batch, capfd):
    found = {}

    def kill() -> None:
        worker = held_worker(batch)
        found["first"] = stamps(batch / "out")
        (batch / "out" / "first" / ".macs-0.5.00000000.partial").mkdir()
        (batch / "hold" / "first").unlink()
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = held_driver.run(batch / "jobs.yaml", batch / "out", progress=True)
    killer.join()
    check_finished(batch, summary, found["first"])
    assert {row.attempts for row in summary.rows} == {2}
    said = capfd.readouterr().err
    assert "killed" in said
    assert "1 of 3 budgets finished; will be tried again alone" in said
    log = (batch / "out" / "logs" / "first.txt").read_text()
    assert "first, attempt 1" in log
    assert "first, attempt 2" in log


@pytest.mark.slow
def test_a_killed_driver_takes_its_worker_along_and_the_next_goes_on(batch):
    program = [sys.executable, held_driver.__file__, batch / "jobs.yaml", batch / "out"]
    driver = subprocess.Popen(program)
    worker = held_worker(batch)
    first = stamps(batch / "out")
    driver.kill()
    driver.wait()
    wait_for(lambda: not is_alive(worker), 10)
    (batch / "hold" / "first").unlink()
    summary = held_driver.run(batch / "jobs.yaml", batch / "out")
    check_finished(batch, summary, first)

    # Once more: nothing is left to do, and nothing is started.
    log = (batch / "out" / "logs" / "first.txt").read_text()
    again = held_driver.run(batch / "jobs.yaml", batch / "out")
    assert [row.state for row in again.rows] == ["done"] * 3
    assert (batch / "out" / "logs" / "first.txt").read_text() == log
