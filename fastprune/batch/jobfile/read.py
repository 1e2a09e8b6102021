"""From a job file to jobs: defaults, tasks, models × tasks, and single jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import Node, ScalarNode

from fastprune.batch.job import Job
from fastprune.batch.jobfile.document import Document, Section
from fastprune.batch.jobfile.values import (
    OPTIONS,
    absolute,
    check_settings,
    read_budgets,
    read_data,
    read_model,
    read_option,
    read_resources,
)

_TOP = ("out", "defaults", "tasks", "models", "jobs")
_TASK = ("train", "eval", "budgets", "resources", *OPTIONS)
_JOB = ("model", "task", "name", *_TASK)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = ("logs", "summary.csv", "summary.json")


@dataclass(frozen=True)
class JobFile:
    """What a job file asks for.

    Attributes:
        jobs: in the order of the file, every name once.
        out: the directory it names for results, if any.
    """

    jobs: list[Job]
    out: Path | None


def read_job_file(path: Path) -> JobFile:
    """Read and check a job file; nothing is computed.

    Relative paths count from the file's directory.

    Raises:
        BatchError: anything in it that cannot be run, with the line it stands on.
    """
    document = Document(path)
    top = document.section(document.root, "the job file", _TOP)
    if not ("models" in top or "jobs" in top):
        raise document.error(document.root, "there is nothing to do; give models or jobs")
    jobs: dict[str, Job] = {}
    places: dict[str, Node] = {}
    for entry in _Expansion(document, top).entries():
        job = _job(document, entry)
        if job.name in jobs:
            raise document.error(
                entry.node,
                f"job {job.name!r} is there already, from line "
                f"{places[job.name].start_mark.line + 1}; give one of them another name",
            )
        jobs[job.name], places[job.name] = job, entry.node
    out = None
    if "out" in top:
        out = absolute(document, top["out"], document.text(top["out"], "out"))
    return JobFile(list(jobs.values()), out)


@dataclass(frozen=True)
class _Entry:
    """One job before its values are read: where it stands, its keys, and its task's name."""

    node: Node
    fields: Section
    task: str | None


class _Expansion:
    """Which jobs a file stands for. Nearer keys count: defaults, then the task, then the job."""

    def __init__(self, document: Document, top: Section) -> None:
        self._document, self._top = document, top
        self._defaults: Section = {}
        if "defaults" in top:
            self._defaults = document.section(top["defaults"], "defaults", _TASK)
        self._tasks: dict[str, Section] = {}
        if "tasks" in top:
            tasks = document.section(top["tasks"], "tasks")
            if not tasks:
                raise document.error(top["tasks"], "tasks is empty; name one, or leave it out")
            self._tasks = {
                str(name): document.section(node, f"task {name!r}", _TASK)
                for name, node in tasks.items()
            }

    def entries(self) -> Iterator[_Entry]:
        """Models × tasks first, then single jobs."""
        for node in self._list("models"):
            given = self._given(node)
            if "task" in given or not self._tasks:
                yield self._entry(node, given, self._named_task(given))
                continue
            for task in self._tasks:
                yield self._entry(node, given, task)
        for node in self._list("jobs"):
            given = self._given(node)
            yield self._entry(node, given, self._named_task(given))

    def _list(self, key: str) -> list[Node]:
        return self._document.entries(self._top[key], key) if key in self._top else []

    def _given(self, node: Node) -> Section:
        """A model alone may stand for a job."""
        if isinstance(node, ScalarNode):
            self._document.text(node, "a model")
            return {"model": node}
        return self._document.section(node, "the job", _JOB)

    def _named_task(self, given: Section) -> str | None:
        if "task" not in given:
            return None
        name = self._document.text(given["task"], "task")
        if name not in self._tasks:
            known = f"known are {', '.join(self._tasks)}" if self._tasks else "there is no 'tasks:'"
            raise self._document.error(given["task"], f"there is no task {name!r}; {known}")
        return name

    def _entry(self, node: Node, given: Section, task: str | None) -> _Entry:
        of_task = {} if task is None else self._tasks[task]
        return _Entry(node, {**self._defaults, **of_task, **given}, task)


def _job(document: Document, entry: _Entry) -> Job:
    fields = entry.fields
    for key in ("model", "train"):
        if key not in fields:
            raise document.error(entry.node, f"the job has no {key}; add '{key}: …'")
    model = read_model(document, fields["model"])
    name = _name(document, entry, model)
    budgets = read_budgets(document, fields.get("budgets"), entry.node)
    options = {
        key: value
        for key in OPTIONS
        if key in fields and (value := read_option(document, key, fields[key])) is not None
    }
    job = Job(
        name=name,
        model=model,
        train=read_data(document, fields["train"], "train"),
        eval=read_data(document, fields["eval"], "eval") if "eval" in fields else None,
        budgets=tuple(budgets),
        options=options,
        resources=read_resources(document, fields.get("resources")),
        place=document.place(entry.node),
    )
    check_settings(document, entry.node, fields, job)
    return job


def _name(document: Document, entry: _Entry, model: str) -> str:
    """The given one; else the model's, and the task's behind it."""
    node = entry.fields.get("name", entry.node)
    name = document.text(node, "name") if "name" in entry.fields else Path(model).name
    # A model with a name of its own may still stand for several tasks.
    if entry.task is not None and not ("name" in entry.fields and "task" in entry.fields):
        name = f"{name}-{entry.task}"
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise document.error(
            node,
            f"{name!r} cannot name a directory of results; use letters, digits, '.', '_' and '-', "
            f"a letter or digit first, and none of {', '.join(_RESERVED)}",
        )
    return name
