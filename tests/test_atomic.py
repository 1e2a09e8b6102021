"""A directory appears whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from tiny_models import random_masks, tiny

import fastprune.atomic as atomic
from fastprune.compaction import compact, save_pretrained
from fastprune.errors import CheckpointError
from fastprune.structure import find_sites


@pytest.fixture(scope="module")
def small() -> Any:
    model = tiny("bert")
    return compact(model, random_masks(find_sites(model)))


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() if p.is_file() else b"" for p in root.rglob("*")
    }


def no_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


class Tokenizer:
    """Stands in for a tokenizer whose saving goes wrong."""

    def __init__(self, save: Any) -> None:
        self.save_pretrained = save


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize("failure", [no_space, interrupt])
@pytest.mark.parametrize("where", ["weights", "tokenizer", "sync", "swap"])
def test_failures_leave_nothing_behind(
    small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    failure: Any,
    previous: bool,
) -> None:
    target = tmp_path / "new" / "parents" / "model"
    if previous:
        save_pretrained(small, target)
    before = tree(tmp_path)
    tokenizer = None
    if where == "weights":
        monkeypatch.setattr(type(small), "save_pretrained", failure)
    elif where == "tokenizer":
        tokenizer = Tokenizer(failure)
    elif where == "sync":
        monkeypatch.setattr(os, "fsync", failure)
    else:
        rename = os.rename

        def rename_into_target(source: Any, destination: Any) -> None:
            if str(source).endswith(".partial"):
                failure()
            rename(source, destination)

        monkeypatch.setattr(atomic.os, "rename", rename_into_target)
    expected = CheckpointError if failure is no_space else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save_pretrained(small, target, tokenizer, overwrite=True)
    if failure is no_space:
        assert "No space left" in str(caught.value)
        assert str(target) in str(caught.value)
    assert tree(tmp_path) == before


def test_weights_that_stop_half_way(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file = safetensors.torch.save_file

    def half(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        save_file(tensors, filename, *args, **kwargs)
        os.truncate(filename, 100)
        no_space()

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", half)
    with pytest.raises(CheckpointError, match="No space left"):
        save_pretrained(small, tmp_path / "model")
    assert tree(tmp_path) == {}


def test_existing_targets(small: Any, tmp_path: Path) -> None:
    target = tmp_path / "model"
    save_pretrained(small, target, report={"a": 1})
    with pytest.raises(CheckpointError, match=r"exists.*--overwrite"):
        save_pretrained(small, target)
    save_pretrained(small, target, overwrite=True)
    assert not (target / "fastprune_report.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_only_checkpoints_are_overwritten(small: Any, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no model"):
        save_pretrained(small, tmp_path, overwrite=True)
    assert tree(tmp_path) == {"precious.txt": b"mine"}


def test_a_file_in_the_way(small: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file"):
        save_pretrained(small, tmp_path / "file", overwrite=True)
    with pytest.raises(CheckpointError, match="cannot be made in"):
        save_pretrained(small, tmp_path / "file" / "below")
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_parent_that_refuses(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)  # root ignores permission bits, so chmod will not do
    with pytest.raises(CheckpointError, match="Permission denied"):
        save_pretrained(small, tmp_path / "model")
    assert tree(tmp_path) == {}


def test_a_report_that_is_not_json(small: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_pretrained(small, tmp_path / "model", report={"tensor": small.dtype})
    assert tree(tmp_path) == {}
