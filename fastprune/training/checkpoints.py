"""Checkpoints of a training: whose they are, and which of them can be gone on from."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fastprune.atomic import locked
from fastprune.budget import Budget
from fastprune.compaction.directories import budget_directory
from fastprune.distributed.group import ALONE, Group
from fastprune.errors import CheckpointError

_RECORD = "training.json"
"""What the checkpoints beside it are of."""
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
    directory: Path, fingerprint: str, *, resume: bool, group: Group = ALONE
) -> Iterator[Path | None]:
    """Keep a directory for the checkpoints of a training, or take up the one that is there.

    While the block lasts no other training gets in. Whatever ends it early: without a checkpoint
    in it the directory goes.

    Args:
        directory: of checkpoints.
        fingerprint: of all that the training depends on.
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
            return _claim(directory, fingerprint, resume=resume, processes=group.size)

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
            shutil.rmtree(record.parent, ignore_errors=True)
        with suppress(OSError):  # other files are not ours
            kept.rmdir()
    with suppress(OSError):
        directory.rmdir()


def _claim(directory: Path, fingerprint: str, *, resume: bool, processes: int) -> Path | None:
    record, last = directory / _RECORD, None
    if directory.is_dir() and any(directory.iterdir()) and not record.is_file():
        raise CheckpointError(
            f"{directory} holds files that are no checkpoints of fastprune; move them away, or "
            "choose another --out"
        )
    if found := _checkpoints(directory):
        if not resume:
            raise CheckpointError(
                f"{directory} holds checkpoints of a training that was interrupted; go on with it "
                "(--resume; in Python resume=True), or remove the directory"
            )
        if _read(record) != fingerprint:
            raise CheckpointError(
                f"the checkpoints in {directory} are of another model, other data or other "
                "settings; repeat those, or remove the directory"
            )
        last = _last_whole(found, processes)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        record.write_text(fingerprint, encoding="utf-8")
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


def _read(record: Path) -> str:
    try:
        return record.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
