"""The values of a job, read and checked one by one."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from yaml.nodes import Node

from fastprune.batch.job import Job, Resources
from fastprune.batch.jobfile.document import Document, Section
from fastprune.budget import Budget, parse_budget
from fastprune.cofi.options import OPTIONS as TRAINING
from fastprune.cofi.options import gate_training
from fastprune.data.hub import find_task
from fastprune.errors import FastpruneError
from fastprune.settings import Settings

_HINTS = get_type_hints(Settings)
_ELSEWHERE = ("budgets", "progress")
"""Settings that job files have in another place, or not at all."""
OPTIONS = tuple(f.name for f in fields(Settings) if f.name not in _ELSEWHERE)
"""Keys of a job that are passed on as they are."""

_EXPONENT = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)
"""A number such as 2e-4, which YAML 1.1 takes for text."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def read_model(document: Document, node: Node) -> str:
    """An absolute path, or a hub id.

    Raises:
        BatchError: what looks like a path leads nowhere, or to no model.
    """
    given = document.text(node, "model")
    path = absolute(document, node, given)
    if path.exists():
        if not (path / "config.json").is_file():
            raise document.error(node, f"model {given} holds no config.json; name a model's folder")
        return str(path)
    # "models/bert" could be a hub id; beside a folder "models" it is a slip of the pen.
    beside = len(Path(given).parts) > 1 and path.parent.is_dir()
    if beside or not _HUB_ID.fullmatch(given):
        raise document.error(node, f"there is no model {path}; check the path")
    return given


def read_data(document: Document, node: Node, key: str) -> str:
    """An absolute path, or the name of a hub task.

    Raises:
        BatchError: there is neither such a file nor such a task.
    """
    given = document.text(node, key)
    path = absolute(document, node, given)
    if path.is_file():
        return str(path)
    if path.is_dir():
        raise document.error(node, f"{key} {given} is a directory; give a data file")
    if (len(Path(given).parts) > 1 and not given.startswith("glue/")) or path.suffix:
        raise document.error(node, f"{key}: there is no file {path}; check the path")
    try:
        return find_task(given).name
    except FastpruneError as error:
        raise document.error(node, f"{key}: {error}") from error


def read_budgets(document: Document, node: Node | None, job: Node) -> list[Budget]:
    """The budgets of a job.

    Raises:
        BatchError: there are none, one cannot be read, or one is there twice.
    """
    if node is None:
        raise document.error(job, "the job has no budgets; add 'budgets: [macs=0.5]'")
    found: dict[str, Budget] = {}
    for entry in document.entries(node, "budgets"):
        try:
            budget = parse_budget(document.value(entry))
        except FastpruneError as error:
            raise document.error(entry, f"budgets: {error}") from error
        if str(budget) in found:
            raise document.error(entry, f"budgets: {budget} is given twice; keep one")
        found[str(budget)] = budget
    return list(found.values())


def read_option(document: Document, key: str, node: Node) -> Any:
    """The value of an option; None for its default.

    Raises:
        BatchError: a value of the wrong type.
    """
    value = document.value(node)
    if value is None:
        return None
    if _HINTS[key] is bool and not isinstance(value, bool):
        raise document.error(node, f"{key} must be true or false, got {value!r}")
    if key == "cache":
        if isinstance(value, bool):
            return value
        return str(absolute(document, node, document.text(node, key)))
    if key == "latency_table":
        path = absolute(document, node, document.text(node, key))
        if not path.is_file():
            raise document.error(node, f"{key}: there is no file {path}; check the path")
        return str(path)
    if key == "training":
        return _read_training(document, node)
    if key == "text_columns":
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise document.error(node, f"{key} must be a list of names, got {value!r}")
        return [name.strip() for name in names]
    if key == "device" and value not in ("auto", "cpu", "cuda"):
        raise document.error(
            node, f"device must be auto, cpu or cuda, got {value!r}; which GPU is free is seen to"
        )
    if key == "dtype" or _HINTS[key] in (str, str | None):
        return document.text(node, key)
    if isinstance(value, bool) and _HINTS[key] is not bool:
        raise document.error(node, f"{key} must be a number, got {value!r}")
    return value


def _read_training(document: Document, node: Node) -> dict[str, Any]:
    """Options of training under gates, as plain values."""
    options: dict[str, Any] = {}
    for key, value in document.section(node, "training", TRAINING).items():
        option = document.value(value)
        if isinstance(option, str) and _EXPONENT.fullmatch(option):
            option = float(option)
        try:
            gate_training(**{key: option})
        except FastpruneError as error:
            raise document.error(value, f"training: {error}") from error
        options[key] = option
    return options


def check_settings(document: Document, node: Node, given: Section, job: Job) -> None:
    """Refuse options that no run would accept.

    Raises:
        BatchError: on the line of the option that the reason names, else on the job's.
    """
    try:
        job.settings().resolved()
    except FastpruneError as error:
        named = [key for key in job.options if re.search(rf"\b{key}\b", str(error))]
        raise document.error(given[named[-1]] if named else node, error) from error


def read_resources(document: Document, node: Node | None) -> Resources:
    """What a job holds while it runs.

    Raises:
        BatchError: an unknown resource, or an amount that cannot be held.
    """
    if node is None:
        return Resources()
    section = document.section(node, "resources", ("cpus", "gpus"))
    amounts = {key: _amount(document, key, value) for key, value in section.items()}
    cpus, gpus = amounts.get("cpus"), amounts.get("gpus")
    if cpus is not None and (cpus < 1 or cpus != int(cpus)):
        raise document.error(section["cpus"], f"cpus must be a whole number from 1 on, got {cpus}")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise document.error(
            section["gpus"], f"gpus must be a whole number, or a share between 0 and 1, got {gpus}"
        )
    return Resources(cpus=None if cpus is None else int(cpus), gpus=gpus)


def _amount(document: Document, key: str, node: Node) -> float:
    value = document.value(node)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise document.error(node, f"{key} must be a number, got {value!r}")
    return float(value)


def absolute(document: Document, node: Node, given: str) -> Path:
    """The path that is meant, seen from the job file.

    Raises:
        BatchError: no file can have this name.
    """
    try:
        path = (document.path.parent / Path(given).expanduser()).resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise document.error(node, f"{given!r} is no path ({error})") from error
    return path
