"""Which job comes next: the policy alone, with an executor that runs nothing."""

from __future__ import annotations

import json

import pytest

from fastprune.batch.attempt import Ending
from fastprune.batch.job import Job
from fastprune.batch.run import run_jobs
from fastprune.batch.schedule import Schedule
from fastprune.batch.store import Store
from fastprune.budget import Budget
from fastprune.errors import BatchError

OOM = Ending("out of memory", "RuntimeError: out of memory")
KILLED = Ending("killed", "killed")
CRASH = Ending("crashed", "ValueError: no")
DONE = Ending("done")


def job(name: str) -> Job:
    return Job(name, "model", "sst2", None, (Budget("macs", 0.5),))


class Script:
    """An executor whose attempts end as written, in the order they were started."""

    def __init__(self, endings: dict[str, list[Ending]], room: int = 2) -> None:
        self.endings, self.room = endings, room
        self.running: list[str] = []
        self.history: list[tuple[str, int, tuple[str, ...]]] = []
        self.stopped = False

    def check(self, job: Job) -> None:
        if job.name == "impossible":
            raise BatchError("there is no room for this job")

    def start(self, job: Job, attempt: int) -> bool:
        if len(self.running) == self.room:
            return False
        self.history.append((job.name, attempt, tuple(self.running)))
        self.running.append(job.name)
        return True

    def ended(self) -> list[tuple[str, Ending]]:
        name = self.running.pop(0)
        return [(name, self.endings[name].pop(0))]

    def stop(self) -> None:
        self.stopped = True


def run(tmp_path, endings, **options):
    script = Script(endings)
    names = options.pop("jobs", list(endings))
    summary = run_jobs([job(n) for n in names], Store(tmp_path / "o"), lambda: script, **options)
    assert script.stopped
    return script, summary


def test_a_crash_is_tried_again_and_stops_nobody(tmp_path):
    script, summary = run(tmp_path, {"a": [CRASH, DONE], "b": [DONE], "c": [DONE]})
    assert [(name, attempt) for name, attempt, _ in script.history] == [
        ("a", 1), ("b", 1), ("c", 1), ("a", 2),
    ]  # fmt: skip
    assert summary.failed == {}


def test_a_job_that_always_fails_is_given_up(tmp_path):
    script, summary = run(tmp_path, {"a": [CRASH] * 3, "b": [DONE]}, retries=2)
    assert sum(name == "a" for name, *_ in script.history) == 3
    assert summary.failed == {"a": CRASH}
    rows = {row.job: row for row in summary.rows}
    assert (rows["a"].state, rows["a"].error, rows["a"].attempts) == ("crashed", CRASH.error, 3)


def test_what_the_user_has_to_mend_is_not_tried_again(tmp_path):
    refused = Ending("refused", "no such label")
    script, summary = run(tmp_path, {"a": [refused], "b": [DONE]}, retries=5)
    assert len(script.history) == 2
    assert summary.failed == {"a": refused}


@pytest.mark.parametrize("ending", [OOM, KILLED], ids=lambda e: e.kind)
def test_out_of_memory_is_tried_again_alone_after_all_others(tmp_path, ending):
    endings = {"a": [ending, DONE], "b": [DONE], "c": [ending, DONE], "d": [CRASH, DONE]}
    script, _ = run(tmp_path, endings)
    # By then everything else is through: d, which only crashed, has had its turn.
    assert script.history[-2:] == [("a", 2, ()), ("c", 2, ())]
    assert ("d", 2) in [(name, attempt) for name, attempt, _ in script.history[:-2]]


def test_no_retries(tmp_path):
    script, summary = run(tmp_path, {"a": [CRASH]}, retries=0)
    assert len(script.history) == 1
    assert list(summary.failed) == ["a"]


@pytest.mark.parametrize("retries", [-1, True, 1.5])
def test_retries_must_be_a_number(tmp_path, retries):
    with pytest.raises(BatchError, match="retries"):
        run(tmp_path, {"a": [DONE]}, retries=retries)


def test_nothing_starts_when_one_job_has_no_room(tmp_path):
    script = Script({"a": [DONE]})
    with pytest.raises(BatchError, match="no room"):
        run_jobs([job("a"), job("impossible")], Store(tmp_path / "o"), lambda: script)
    assert script.history == []
    assert script.stopped


def test_the_summary_is_written_and_says_what_waits(tmp_path):
    """Also while the batch runs: a killed driver leaves it up to date."""
    seen = []
    out = tmp_path / "o"

    class Watching(Script):
        def ended(self) -> list[tuple[str, Ending]]:
            seen.append([row["state"] for row in json.loads((out / "summary.json").read_text())])
            return super().ended()

    run_jobs([job("a"), job("b")], Store(out), lambda: Watching({"a": [CRASH], "b": [DONE]}, 1),
             retries=0)  # fmt: skip
    assert seen == [["waiting", "waiting"], ["crashed", "waiting"]]
    lines = (out / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("job,model,budget,state")
    assert lines[1].startswith("a,model,macs=0.5,crashed")


def test_an_interrupt_stops_what_runs(tmp_path):
    class Interrupted(Script):
        def ended(self) -> list[tuple[str, Ending]]:
            raise KeyboardInterrupt

    script = Interrupted({"a": [DONE]})
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job("a")], Store(tmp_path / "o"), lambda: script)
    assert script.stopped


def test_a_schedule_starts_nothing_beside_a_job_that_runs_alone():
    schedule = Schedule([job("a")], retries=1)
    first = schedule.next(0)
    schedule.started(first)
    assert schedule.ended(first, OOM)
    assert schedule.next(1) is None
    assert schedule.next(0) is first
