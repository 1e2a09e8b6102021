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


def require_tensor(name: str, tensor: Tensor) -> None:
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided
    require(dense, f"{name} must be a dense tensor, not {type(tensor).__name__}")


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    require_tensor(name, tensor)
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ArgumentError(f"{name} must be {names}, not {str(tensor.dtype)[6:]}: convert it")


def require_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    require_tensor(name, tensor)
    if tuple(tensor.shape) != tuple(shape):
        raise ArgumentError(f"{name} must have shape {list(shape)}, not {list(tensor.shape)}")


def require_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ArgumentError(f"{name} is on {tensor.device}, the rest on {like.device}: move it")


def checked_sizes(sizes: Sequence[int]) -> list[int]:
    try:
        result = [int(size) for size in sizes]
    except (TypeError, ValueError):
        raise ArgumentError(f"sizes must be whole numbers in a list, not {sizes!r}") from None
    require(all(size >= 0 for size in result), f"sizes must not be negative: {result}")
    return result


def row_mask(name: str, valid: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """``valid`` as a contiguous bool tensor; attention masks come in every integer type."""
    require_shape(name, valid, shape)
    require_device(name, valid, like)
    return valid.to(torch.bool).contiguous()
