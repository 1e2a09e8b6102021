"""Shape and dtype of every operation's result, for tracing and compilation."""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune.ops.schemas import NAMESPACE


@torch.library.register_fake(f"{NAMESPACE}::mask_grad")
def _mask_grad(
    x: Tensor, grad: Tensor, group: int, valid: Tensor | None, offsets: Tensor | None
) -> Tensor:
    samples = x.shape[0] if offsets is None else offsets.shape[0] - 1
    return x.new_empty((samples, x.shape[-1] // group), dtype=torch.float32)


@torch.library.register_fake(f"{NAMESPACE}::fisher_outer")
def _fisher_outer(blocks: Tensor, grads: Tensor, sizes: list[int]) -> None:
    return None


@torch.library.register_fake(f"{NAMESPACE}::greedy_rearrange")
def _greedy_rearrange(blocks: Tensor, sizes: list[int], masks: Tensor) -> Tensor:
    return torch.empty_like(masks, memory_format=torch.contiguous_format)


@torch.library.register_fake(f"{NAMESPACE}::gram")
def _gram(out: Tensor, x: Tensor, columns: Tensor | None, valid: Tensor | None) -> None:
    return None


@torch.library.register_fake(f"{NAMESPACE}::tuning_system")
def _tuning_system(
    gram: Tensor, weight: Tensor, cross: Tensor, group: int
) -> tuple[Tensor, Tensor]:
    units = weight.shape[1] // group
    return gram.new_empty((units, units)), gram.new_empty((units,))


@torch.library.register_fake(f"{NAMESPACE}::block_lstsq")
def _block_lstsq(
    systems: Tensor, rhs: Tensor, sizes: list[int], damping: float
) -> tuple[Tensor, Tensor]:
    x = torch.empty_like(rhs, memory_format=torch.contiguous_format)
    return x, rhs.new_empty((len(sizes),), dtype=torch.int32)
