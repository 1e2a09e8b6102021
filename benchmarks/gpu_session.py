#!/usr/bin/env python
"""Everything that is to be checked and measured on a machine with an NVIDIA GPU, in one command.

    .venv/bin/python benchmarks/gpu_session.py

Builds the library, runs the whole test suite and compute-sanitizer, times every operation and the
pipeline, and holds the results against their targets. A step that fails stops no other. Takes at
most 20 minutes and leaves eight files under ``--out``; start with ``summary.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from summary import Outcome, write_summary

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
NATIVE = ROOT / "fastprune" / "_native.so"
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SESSION_SECONDS = 20 * 60


@dataclass(frozen=True)
class Step:
    """A command, what it may take, and the file it leaves.

    Attributes:
        result: written by the command; an older one is removed first.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    result: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def steps(out: Path, library: Path | None, dry: bool) -> Iterator[Step]:
    """In order: what the numbers rest on comes first."""
    if library is None and not dry:
        install = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", ".")
        yield Step("build", (sys.executable, *install), 120, environment={"FASTPRUNE_CUDA": "on"})
    describe = (sys.executable, str(BENCHMARKS / "provenance.py"), "cpu" if dry else "cuda")
    yield Step("machine", describe, 30)
    # Not this session within itself.
    whole = ("tests", "--ignore=tests/benchmarks/test_gpu_session.py")
    suite = ("tests/ops/test_op_arguments.py",) if dry else whole
    junit = out / "tests.xml"
    yield Step("tests", (*PYTEST, "-v", *suite, f"--junit-xml={junit}"), 300, junit)
    yield from _sanitizer_steps(dry)
    for name, chosen, tiny, seconds in (
        ("bench_ops", "cuda", "--tiny", 300),
        ("bench_pipeline", "gpu", "--collect-only", 120),
    ):
        result = out / f"{name}.json"
        options = (tiny,) if dry else ("-k", chosen)
        keep = ("--benchmark-only", f"--benchmark-json={result}")
        yield Step(name, (*PYTEST, "-q", f"benchmarks/{name}.py", *keep, *options), seconds, result)
    plot = (sys.executable, str(BENCHMARKS / "roofline.py"), str(out / "bench_ops.json"))
    yield Step("roofline", (*plot, "--stem", str(out / "roofline")), 30, out / "roofline.md")


def _sanitizer_steps(dry: bool) -> Iterator[Step]:
    run = (sys.executable, str(BENCHMARKS / "sanitizer_cases.py"))
    if dry:
        yield Step("sanitizer cases", run, 75)
        return
    # Freed memory goes back to CUDA, or the tools could not tell it from memory in use.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for name in SANITIZERS:
        command = (tool, "--tool", name, "--error-exitcode", "1", *run)
        yield Step(name, command, 75, environment=environment)


def run_step(step: Step, log_file: Path, deadline: float) -> Outcome:
    """Run a command in its own process group, so that nothing outlives its time."""
    start = time.monotonic()
    allowed = min(step.seconds, deadline - start)
    if allowed <= 0:
        return Outcome(step.name, "no time left", 0.0, "")
    if shutil.which(step.command[0]) is None:
        return Outcome(step.name, "skipped", 0.0, f"{step.command[0]} is not there")
    if step.result:
        step.result.unlink(missing_ok=True)
    paths = os.pathsep.join([str(ROOT), str(BENCHMARKS), str(ROOT / "tests")])
    with log_file.open("a+b") as log:
        log.write(f"\n==== {step.name}: {' '.join(step.command)}\n".encode())
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, **step.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "ok" if process.wait(allowed) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(begin)
        lines = log.read().decode(errors="replace").split("\n")
    note = next((line.strip("= ") for line in reversed(lines) if line.strip("= ")), "")
    return Outcome(step.name, status, time.monotonic() - start, note)


def gpu_name() -> str | None:
    """As the driver lists it, with the driver's version; None without a GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return None
    found = subprocess.run(query, capture_output=True, text=True)
    return found.stdout.strip().split("\n")[0] or None if found.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu-<device>")
    parser.add_argument("--library", type=Path, help="a _native.so built elsewhere, put in place")
    parser.add_argument("--dry-run", action="store_true", help="the same steps, tiny, on the CPU")
    parser.add_argument("--steps", help="only these, by name, comma separated; others are kept")
    arguments = parser.parse_args()

    gpu = gpu_name()
    dry = arguments.dry_run or gpu is None
    if gpu is None and not arguments.dry_run:
        print("no NVIDIA GPU here: this is a dry run on the CPU, and measures nothing")
    device = "dry-run" if dry else gpu.split(",")[0].replace(" ", "-").lower()
    out = (arguments.out or BENCHMARKS / "results" / f"gpu-{device}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    print(f"{gpu or 'CPU'}: results in {out}", flush=True)
    if arguments.library:
        beside = NATIVE.with_suffix(".new")
        shutil.copyfile(arguments.library, beside)
        beside.replace(NATIVE)  # whoever has the old one mapped keeps it

    deadline = time.monotonic() + SESSION_SECONDS
    chosen = arguments.steps.split(",") if arguments.steps else None
    outcomes = []
    for step in steps(out, arguments.library, dry):
        if chosen is not None and step.name not in chosen:
            continue
        print(f"{step.name} ...", flush=True)
        outcomes.append(run_step(step, out / "log.txt", deadline))
        print(f"  {outcomes[-1]}", flush=True)
    print(write_summary(out, gpu or "CPU, dry run", outcomes, keep=chosen is not None))
    return any(outcome.status in ("failed", "timed out", "no time left") for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
