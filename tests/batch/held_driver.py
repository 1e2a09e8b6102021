"""A driver whose workers are those of ``held_worker.py``: ``JOB_FILE OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from fastprune.batch.jobfile import read_job_file
from fastprune.batch.local import LocalExecutor
from fastprune.batch.run import run_jobs
from fastprune.batch.store import Store

WORKER = (sys.executable, str(Path(__file__).with_name("held_worker.py")))


def run(job_file: Path, out: Path, workers: int = 1, **options):
    store = Store(out)
    return run_jobs(
        read_job_file(job_file).jobs,
        store,
        lambda: LocalExecutor(store, workers, WORKER),
        **options,
    )


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
