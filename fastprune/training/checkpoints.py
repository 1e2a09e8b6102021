"""Checkpoints of a training: whose they are, and which of them can be gone on from."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fastprune.atomic import atomic_file, locked
from fastprune.budget import Budget
from fastprune.compaction.directories import budget_directory
from fastprune.distributed.group import ALONE, Group
from fastprune.errors import CheckpointError

_RECORD = "training.json"
"""What the checkpoints beside it are of."""
_SHORT = 24
"""Characters of a value that is repeated in messages."""
_NAME = re.compile(r"checkpoint-(\d+)")
_STATES = ("optimizer.pt", "scheduler.pt")
"""Besides weights and the random states of all processes: what an exact continuation needs."""


@contextmanager
def directory_for(
    budget: Budget, directory: str | os.PathLike[str] | None, group: Group
) -> Iterator[Path]:
    """Where checkpoints of a budget lie: in a directory that stays, or a temporary one.

    Args:
        budget: of a training.
        directory: of all budgets; None = temporary.
        group: the processes that train, all of which see the files of the first.
    """
    if directory is not None:
        yield budget_directory(Path(directory), budget)
        return
    temporary = Path(group.first(lambda: tempfile.mkdtemp(prefix="fastprune-")))
    try:
        yield temporary
        group.gather(None)  # nobody reads in it any more
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def checkpoints_in(
    directory: Path, of_what: Mapping[str, Any], *, resume: bool, group: Group = ALONE
) -> Iterator[Path | None]:
    """Keep a directory for the checkpoints of a training, or take up the one that is there.

    While the block lasts no other training gets in. Whatever ends it early: without a checkpoint
    in it the directory goes.

    Args:
        directory: of checkpoints.
        of_what: all that the training depends on, by name: plain values, or fingerprints.
        resume: go on with what an interrupted training has left.
        group: the processes that train.

    Yields:
        the last checkpoint that is whole, if ``resume`` and there is one. Damaged ones are removed,
        with a warning.

    Raises:
        CheckpointError: files of something else, checkpoints of another training, or some that may
            not be replaced; another training at work; or a directory that cannot be written.
    """
    with ExitStack() as stack:

        def take() -> Path | None:
            stack.enter_context(locked(directory, "another training"))
            return _claim(directory, _flat(of_what), resume=resume, processes=group.size)

        last = group.first(take)
        try:
            yield last
        except BaseException:
            if not _checkpoints(directory):
                shutil.rmtree(directory, ignore_errors=True)
            raise


def clear_budgets(directory: Path, budgets: Iterable[Budget]) -> None:
    """Remove what :func:`directory_for` has kept for budgets, and nothing else."""
    for budget in budgets:
        kept = budget_directory(directory, budget)
        for record in kept.glob(f"*/{_RECORD}"):
            _clear(record.parent)
        with suppress(OSError):  # other files are not ours
            kept.rmdir()
    with suppress(OSError):
        directory.rmdir()


def _clear(directory: Path) -> None:
    """Remove checkpoints, unless somebody is at work on them."""
    with suppress(CheckpointError), locked(directory, "another training"):
        for checkpoint in _checkpoints(directory):
            shutil.rmtree(checkpoint, ignore_errors=True)
        (directory / _RECORD).unlink(missing_ok=True)


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Values by their names, those of mappings by both names."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": text for inner, text in _flat(value).items()}
        else:
            found[name] = str(value)
    return found


def _claim(
    directory: Path, of_what: dict[str, str], *, resume: bool, processes: int
) -> Path | None:
    record, last = directory / _RECORD, None
    if directory.is_dir() and any(directory.iterdir()) and not record.is_file():
        raise CheckpointError(
            f"{directory} holds files that are no checkpoints of fastprune; move them away, or "
            "choose another --out"
        )
    if found := _checkpoints(directory):
        if not resume:
            raise CheckpointError(
                f"{directory} holds checkpoints of an earlier training; go on with it, or take "
                "what it has come to (--resume; in Python resume=True), or remove the directory"
            )
        if differences := _differences(_read(record), of_what):
            raise CheckpointError(
                f"the checkpoints in {directory} are of another training: {differences}; repeat "
                "that one, or remove the directory"
            )
        last = _last_whole(found, processes)
        if last is not None:
            _keep_best_beside(last)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(of_what), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"cannot write {directory}: {error}; choose a writable directory"
        ) from error
    return last


def _checkpoints(directory: Path) -> list[Path]:
    """Oldest first."""
    if not directory.is_dir():
        return []
    steps = {path: _NAME.fullmatch(path.name) for path in directory.iterdir() if path.is_dir()}
    found = [(int(match[1]), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found)]


def _last_whole(checkpoints: list[Path], processes: int) -> Path | None:
    for path in reversed(checkpoints):
        if _is_whole(path, processes) and _has_its_best(path, processes):
            return path
        warnings.warn(f"{path} is damaged and was removed", RuntimeWarning, stacklevel=4)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _has_its_best(checkpoint: Path, processes: int) -> bool:
    """Whether the best checkpoint so far, which may be what comes out, is whole as well."""
    best = _state(checkpoint).get("best_model_checkpoint")
    return best is None or _is_whole(checkpoint.parent / Path(best).name, processes)


def _state(checkpoint: Path) -> dict[str, Any]:
    """How far a checkpoint has come; nothing where it does not say."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and "global_step" in state else {}


def _is_whole(checkpoint: Path, processes: int) -> bool:
    """Whether everything is there and can be read to its end."""
    random = [f"rng_state_{rank}.pth" for rank in range(processes)]
    states = (*_STATES, *(["rng_state.pth"] if processes == 1 else random))
    try:
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, "pt"):  # looks at the length, too
                pass
        for name in states:
            with zipfile.ZipFile(checkpoint / name) as archive:
                if archive.testzip() is not None:
                    return False
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return bool(weights and _state(checkpoint))


def _keep_best_beside(checkpoint: Path) -> None:
    """The Trainer notes where the best checkpoint was; it is where its directory is now."""
    state = _state(checkpoint)
    best = state.get("best_model_checkpoint")
    if best is not None:
        state["best_model_checkpoint"] = str(checkpoint.parent / Path(best).name)
        with atomic_file(checkpoint / "trainer_state.json") as path:
            path.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, in words; of long texts, such as fingerprints, the names alone."""
    found = []
    for name in dict.fromkeys([*now, *then]):
        before, after = then.get(name, "unknown"), now.get(name, "unknown")
        if before != after:
            short = max(len(before), len(after)) <= _SHORT
            found.append(f"{name} was {before} and is {after}" if short else f"another {name}")
    return ", ".join(found)


def _read(record: Path) -> dict[str, str]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {}
