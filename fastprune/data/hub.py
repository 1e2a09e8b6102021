"""Benchmark tasks by their hub name: GLUE and SQuAD."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from fastprune.data.table import Table
from fastprune.errors import DataError


@dataclass(frozen=True)
class HubTask:
    """Where a task lies on the hub, and how it is read and scored."""

    name: str
    repository: str
    config: str | None
    text_columns: tuple[str, ...]
    label_column: str
    metric: str
    eval_split: str = "validation"


def _glue(
    name: str, *text: str, metric: str = "accuracy", config: str | None = None, eval_split: str = ""
) -> HubTask:
    return HubTask(
        name, "nyu-mll/glue", config or name, text, "label", metric, eval_split or "validation"
    )


def _squad(name: str) -> HubTask:
    return HubTask(name, f"rajpurkar/{name}", None, ("question", "context"), "answers", "f1")


# Metrics follow Kwon et al. 2022, table 1: accuracy also for MRPC and QQP.
TASKS: dict[str, HubTask] = {
    task.name: task
    for task in (
        _glue("cola", "sentence", metric="matthews"),
        _glue("sst2", "sentence"),
        _glue("mrpc", "sentence1", "sentence2"),
        _glue("stsb", "sentence1", "sentence2", metric="spearman"),
        _glue("qqp", "question1", "question2"),
        _glue("mnli", "premise", "hypothesis", eval_split="validation_matched"),
        _glue(
            "mnli_mismatched",
            "premise",
            "hypothesis",
            config="mnli",
            eval_split="validation_mismatched",
        ),
        _glue("qnli", "question", "sentence"),
        _glue("rte", "sentence1", "sentence2"),
        _glue("wnli", "sentence1", "sentence2"),
        _squad("squad"),
        _squad("squad_v2"),
    )
}


def find_task(name: str) -> HubTask:
    """The task of that name, in any case, with or without ``glue/`` before it.

    Raises:
        DataError: there is none; the message suggests a close one.
    """
    key = name.lower().removeprefix("glue/").replace("-", "_")
    if key in TASKS:
        return TASKS[key]
    close = get_close_matches(key, TASKS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the tasks are {', '.join(TASKS)}"
    raise DataError(f"{name!r} is neither a file nor a known task; {hint}")


def read_hub(task: HubTask, split: Literal["train", "eval"]) -> Table:
    """Download a task's split, or take it from the hub's offline cache.

    Raises:
        DataError: the hub cannot be reached and the cache does not hold the task.
    """
    import datasets  # takes long

    wanted = "train" if split == "train" else task.eval_split
    try:
        return Table(datasets.load_dataset(task.repository, task.config, split=wanted))
    except Exception as error:  # network, cache and hub errors share no base class
        raise DataError(
            f"task {task.name} ({task.repository}) cannot be loaded from the hub "
            f"({type(error).__name__}); give a local file, or fill the hub's cache "
            "where there is a network and set HF_HUB_OFFLINE=1"
        ) from error
