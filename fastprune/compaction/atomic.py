"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from fastprune.errors import CheckpointError


@contextmanager
def atomic_directory(
    directory: str | os.PathLike[str], *, overwrite: bool = False
) -> Iterator[Path]:
    """Yield an empty sibling of ``directory`` that takes its place when the block succeeds.

    Whatever goes wrong inside (errors, a full disk, an interrupt), nothing new is left behind,
    parents included, and a previous directory is as it was. Missing parents are created.

    Raises:
        CheckpointError: the target exists and may not be replaced, or writing fails.
    """
    target = check_target(directory, overwrite)
    missing = [parent for parent in target.parents if not parent.exists()]
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
        for path in (*staging.rglob("*"), staging):
            _sync(path)
        _swap(staging, target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in missing:
            _remove_if_empty(parent)
        if isinstance(error, (OSError, SafetensorError)):
            raise CheckpointError(
                f"cannot write {target}: {error}; make room or choose a writable directory"
            ) from error
        raise


def check_target(directory: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuse a target that may not be written, before any work is done for it.

    Returns:
        The absolute path of the target.

    Raises:
        CheckpointError: a file is in the way, or a directory that may not be replaced.
    """
    target = Path(directory).resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; choose another directory")
    if not target.exists():
        return target
    if not overwrite:
        raise CheckpointError(
            f"{target} exists; choose another directory or allow overwriting (--overwrite)"
        )
    if any(target.iterdir()) and not (target / "config.json").is_file():
        raise CheckpointError(
            f"{target} holds no model (no config.json), so it will not be overwritten; "
            "choose another directory"
        )
    return target


def _swap(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; a previous target is put back if that fails."""
    if not target.exists():
        os.rename(staging, target)
        return
    previous = staging.with_suffix(".previous")
    os.rename(target, previous)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(previous, target)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
