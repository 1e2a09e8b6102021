"""Directories and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
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
        if overwrite:
            _swap(staging, target)
        else:
            os.rename(staging, target)  # refuses what has appeared there in the meantime
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


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path``; what is written there takes its place if the block succeeds.

    Raises:
        CheckpointError: writing fails; a previous file is then as it was.
    """
    target = Path(path)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield staging
        _sync(staging)
        os.replace(staging, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {target}: {error}; make room or choose a writable directory"
        ) from error
    finally:
        staging.unlink(missing_ok=True)


def clear_leftovers(directory: Path) -> None:
    """Undo what processes that were killed had begun to write into ``directory``.

    No process may be at work there. A directory that was just being replaced comes back.
    """
    for previous in directory.glob(".*.previous"):
        target = directory / previous.name[1:].rsplit(".", 2)[0]
        if not target.exists():
            os.rename(previous, target)
    for left in (*directory.glob(".*.previous"), *directory.glob(".*.partial")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def check_target(
    directory: str | os.PathLike[str],
    overwrite: bool,
    keep: Sequence[str | os.PathLike[str] | None] = (),
) -> Path:
    """Refuse a target that may not be written, before any work is done for it.

    Args:
        directory: the target.
        overwrite: whether a previous checkpoint there may be replaced.
        keep: paths that must survive, such as the model and data that are read.

    Returns:
        The absolute path of the target.

    Raises:
        CheckpointError: a file is in the way, or a directory that may not be replaced.
    """
    if not isinstance(directory, (str, os.PathLike)):
        raise CheckpointError(f"{directory!r} names no directory to write; give a path")
    target = Path(directory).resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; choose another directory")
    for path in keep:
        kept = None if path is None else Path(path).resolve()
        if kept is not None and kept.exists() and (kept == target or target in kept.parents):
            raise CheckpointError(f"{target} holds {path}, which is read; choose another directory")
    if not target.exists():
        parent = next(parent for parent in target.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise CheckpointError(
                f"{target} cannot be made in {parent}; choose a writable directory"
            )
        return target
    if not overwrite:
        raise CheckpointError(
            f"{target} exists; choose another directory or allow overwriting (--overwrite, or in "
            "Python overwrite=True)"
        )
    if any(target.iterdir()) and not (target / "config.json").is_file():
        raise CheckpointError(
            f"{target} holds no model (no config.json), so it will not be overwritten; "
            "choose another directory"
        )
    return target


@contextmanager
def locked(directory: Path, whose: str) -> Iterator[None]:
    """Keep others of this machine out of a directory; it is made where it is not there, and goes
    again where nothing came of it.

    Args:
        directory: to work in.
        whose: work that may be going on there, for the message.

    Raises:
        CheckpointError: it is, or the directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {directory} ({error.strerror}); choose another"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{whose} is at work on {directory}; wait for it, or choose another directory"
            ) from None
        yield
    finally:
        os.close(descriptor)  # and with it the lock
        with suppress(OSError):
            directory.rmdir()


def check_file(path: str | os.PathLike[str], overwrite: bool, keep: Sequence[object] = ()) -> Path:
    """Refuse a file that may not be written, before any work is done for it.

    Args:
        path: the file.
        overwrite: whether a previous one may be replaced.
        keep: what is read; of these, paths and what lies in them must survive.

    Raises:
        CheckpointError: it exists and may not be replaced, or its directory cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise CheckpointError(f"{path!r} names no file to write; give a path")
    path = Path(path)
    for source in keep:
        if not isinstance(source, (str, os.PathLike)) or not Path(source).exists():
            continue
        read, target = Path(source).resolve(), path.resolve()
        if target.exists() and (read == target or read in target.parents):
            raise CheckpointError(f"{path} is read, or part of what is; choose another file")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; name a file in it")
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"{path} exists; choose another file or allow overwriting (--overwrite, or in Python "
            "overwrite=True)"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise CheckpointError(
            f"{path.parent} is no directory that can be written to; choose another file"
        )
    return path


def _swap(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; a previous target is put back if that fails."""
    if not target.exists():
        os.rename(staging, target)
        return
    previous = staging.with_suffix(".previous")
    try:
        os.rename(target, previous)
        os.rename(staging, target)
    except BaseException:
        if previous.exists() and not target.exists():
            os.rename(previous, target)
        raise
    finally:
        if target.exists():
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
