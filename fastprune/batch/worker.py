"""The process that does one job: ``python -m fastprune.batch.worker OUT NAME ATTEMPT PARENT``.

It ends with its parent, and notes how it ended; budgets are on disk as soon as they are finished.
"""

from __future__ import annotations

import platform
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from fastprune.batch.attempt import Ending
from fastprune.batch.job import Job
from fastprune.batch.lifeline import die_with
from fastprune.batch.store import Store
from fastprune.cli.tables import print_point
from fastprune.device import is_memory
from fastprune.errors import FastpruneError
from fastprune.pareto import Point
from fastprune.pareto.sweep import Notify, run_sweep
from fastprune.progress import calm_libraries

_PATIENCE = 30.0
"""Seconds that a worker of an earlier attempt, whose machine was given up, may still be busy."""


Run = Callable[[Job, Path, Notify], None]


def run_job(job: Job, directory: Path, notify: Notify) -> None:
    """Prune to all budgets of a job; those finished earlier are left as they are.

    Args:
        job: to do.
        directory: of its results.
        notify: told of every finished budget.
    """
    calm_libraries()
    run_sweep(
        job.model,
        job.train,
        job.settings(),
        out=directory,
        overwrite=job.overwrite,
        resume=True,
        eval_data=job.eval,
        notify=notify,
    )


def main(arguments: list[str], run: Run = run_job) -> int:
    """Do a job and note how it ended.

    Args:
        arguments: the directory of the batch, the job's name, the number of the attempt, and the
            id of the process that started this one.
        run: what to do.

    Returns:
        The exit status.
    """
    out, name, attempt, parent = arguments
    if not die_with(int(parent)):
        return 1
    # A terminated worker leaves through the same clean-up as an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    store = Store(out)
    job = store.read_job(name)
    assert job is not None
    print(f"--- {name}, attempt {attempt}, {time.strftime('%F %T')}, {platform.node()}", flush=True)
    start = time.monotonic()
    try:
        with store.held(name, _PATIENCE):
            finished = store.finished(job)

            def note(point: Point) -> None:
                print_point(point)
                finished.append(point.budget)
                store.write_finished(name, dict.fromkeys(finished))

            run(job, store.directory(name), note)
        ending = Ending("done")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    except Exception as error:
        ending = describe(error)
        if ending.kind != "refused":
            traceback.print_exc()
    store.write_outcome(
        name,
        {
            "kind": ending.kind,
            "error": ending.error,
            "attempt": int(attempt),
            "seconds": time.monotonic() - start,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    )
    print(ending.kind if ending.error is None else f"{ending.kind}: {ending.error}", flush=True)
    return 0 if ending.kind == "done" else 1


def describe(error: BaseException) -> Ending:
    """How an attempt ended that raised an error."""
    lines = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if is_memory(error):
        return Ending("out of memory", line)
    if isinstance(error, FastpruneError):
        return Ending("refused", str(error))
    return Ending("crashed", line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
