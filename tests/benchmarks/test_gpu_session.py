"""The GPU session itself, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_session import BENCHMARKS, Step, run_step, steps

FILES = {
    "bench_ops.json",
    "log.txt",
    "roofline.md",
    "roofline.svg",
    "summary.json",
    "summary.md",
    "tests.xml",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.mark.parametrize(
    "names", [("machine", "bench_ops", "roofline"), ("tests", "sanitizer cases", "bench_pipeline")]
)
def test_the_dry_run_does_every_step(out, names):
    command = [sys.executable, BENCHMARKS / "gpu_session.py", "--dry-run", "--out", out]
    # Benchmarks refuse to run where they take themselves for a worker of pytest-xdist.
    alone = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    run = subprocess.run(
        [*command, "--steps", ",".join(names)], capture_output=True, text=True, env=alone
    )
    assert run.returncode == 0, run.stdout + (out / "log.txt").read_text()
    summary = json.loads((out / "summary.json").read_text())
    done = {step["name"]: step["status"] for step in summary["steps"]}
    assert {done[name] for name in names} == {"ok"}
    assert {target["verdict"] for target in summary["targets"]} == {"not measured"}


def test_an_earlier_step_stays_in_the_summary(out):
    """After the two halves above, everything is there."""
    summary = json.loads((out / "summary.json").read_text())
    assert {step["name"] for step in summary["steps"]} == {s.name for s in steps(out, None, True)}
    assert {path.name for path in out.iterdir()} == FILES


def test_a_failure_a_hang_and_a_missing_tool_are_reported(tmp_path):
    def outcome(*command: str, seconds: float = 30.0):
        step = Step("step", command, seconds)
        return run_step(step, tmp_path / "log.txt", time.monotonic() + 60)

    failed = outcome(sys.executable, "-c", "print('why'); raise SystemExit(3)")
    assert (failed.status, failed.note) == ("failed", "why")
    hung = outcome(sys.executable, "-c", "import time; time.sleep(60)", seconds=0.5)
    assert hung.status == "timed out"
    assert hung.seconds < 10
    assert outcome("compute-sanitizer-of-no-machine").status == "skipped"
    assert run_step(Step("late", ("true",), 1), tmp_path / "log.txt", 0.0).status == "no time left"


def test_a_whole_session_fits_its_time(tmp_path):
    assert sum(step.seconds for step in steps(tmp_path, None, dry=False)) <= 20 * 60
