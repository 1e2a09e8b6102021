"""Sums on disk: one safetensors file, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastprune.atomic import atomic_file
from fastprune.errors import CheckpointError


def write_sums(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> None:
    """Write tensors and plain values to one file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    found = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as staging:
        save_file(found, staging, {"fields": json.dumps(fields)})


def read_sums(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_sums` wrote: tensors, and plain values.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            fields = json.loads((file.metadata() or {})["fields"])
            return {name: file.get_tensor(name) for name in file.keys()}, dict(fields)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(unreadable(path, error)) from error


def check_shapes(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    """Refuse tensors that are not what they should be.

    Raises:
        CheckpointError: another shape or type than expected, or values that are not finite.
    """
    for name, tensor in tensors.items():
        shape, dtype = expected[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise CheckpointError(
                f"{path} is damaged: its {name} have shape {tuple(tensor.shape)} in "
                f"{tensor.dtype}, expected {shape} in {dtype}; collect the statistics again"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} holds values that are not finite; collect it again")


def unreadable(path: str | os.PathLike[str], reason: Exception) -> str:
    """What to say about a file that holds something else."""
    return (
        f"{path} is not a readable statistics file ({reason}); collect it again with "
        "fastprune.collect_statistics(...).save(path)"
    )
