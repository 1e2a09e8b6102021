"""Argument checks of the operations: one line that names the cause and the cure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.errors import FastpruneError

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
STATISTICS = (torch.float32, torch.float64)


class ArgumentError(FastpruneError, ValueError):
    """An operation was called with arguments that do not fit together."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ArgumentError(message)


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ArgumentError(f"{name} must be {names}, not {str(tensor.dtype)[6:]}: convert it")


def require_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ArgumentError(f"{name} must have shape {list(shape)}, not {list(tensor.shape)}")


def require_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ArgumentError(f"{name} is on {tensor.device}, the rest on {like.device}: move it")


def checked_sizes(sizes: Sequence[int]) -> list[int]:
    result = [int(size) for size in sizes]
    require(all(size >= 0 for size in result), f"sizes must not be negative: {result}")
    return result


def row_mask(name: str, valid: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """``valid`` as a contiguous bool tensor; attention masks come in every integer type."""
    require_shape(name, valid, shape)
    require_device(name, valid, like)
    return valid.to(torch.bool).contiguous()
