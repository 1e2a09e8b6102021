"""Shape and dtype of every operation's result, for tracing and compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mask_grad(
    x: Tensor, grad: Tensor, group: int, valid: Tensor | None, offsets: Tensor | None
) -> Tensor:
    samples = x.shape[0] if offsets is None else offsets.shape[0] - 1
    return x.new_empty((samples, x.shape[-1] // group), dtype=torch.float32)


def fisher_outer(blocks: Tensor, grads: Tensor, sizes: list[int]) -> None:
    return None


def greedy_rearrange(blocks: Tensor, sizes: list[int], masks: Tensor) -> Tensor:
    return torch.empty_like(masks, memory_format=torch.contiguous_format)


def gram(out: Tensor, x: Tensor, columns: Tensor | None, valid: Tensor | None) -> None:
    return None


def tuning_system(gram: Tensor, weight: Tensor, cross: Tensor, group: int) -> tuple[Tensor, Tensor]:
    units = weight.shape[1] // group
    return gram.new_empty((units, units)), gram.new_empty((units,))


def block_lstsq(
    systems: Tensor, rhs: Tensor, sizes: list[int], damping: float
) -> tuple[Tensor, Tensor]:
    x = torch.empty_like(rhs, memory_format=torch.contiguous_format)
    return x, rhs.new_empty((len(sizes),), dtype=torch.int32)


def obs_greedy(
    inverse: Tensor, weight: Tensor, sizes: list[int], groups: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    order = inverse.new_empty((sum(sizes),), dtype=torch.int32)
    info = inverse.new_empty((len(sizes),), dtype=torch.int32)
    return order, inverse.new_empty((sum(sizes),)), info


def trajectory_distance(out: Tensor, features: Tensor, teacher: Tensor) -> None:
    return None


def path_step(
    mask: Tensor,
    dual: Tensor,
    gate: Tensor,
    crossing: Tensor,
    gradient: Tensor,
    threshold: Tensor,
    kappa: Tensor,
    alpha: Tensor,
    nu: Tensor,
    step: float,
) -> None:
    return None


def hard_concrete(
    alpha: Tensor, noise: Tensor, shares: Tensor, sizes: list[int], sublayers: bool, hidden: int
) -> tuple[Tensor, ...]:
    of_gates = [alpha.new_empty(alpha.shape) for _ in range(3)]
    parts = shares.new_empty((len(sizes) + 2,))
    return of_gates[0], of_gates[1], parts, shares.new_empty(()), of_gates[2]


def masked_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, eps: float, centered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1]), x.new_empty(x.shape[:1])


def masked_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centered: bool,
) -> tuple[Tensor, ...]:
    return x.new_empty(x.shape), *(x.new_empty(x.shape[1:]) for _ in range(3))


FAKES: dict[str, Callable[..., Any]] = {
    "mask_grad": mask_grad,
    "fisher_outer": fisher_outer,
    "greedy_rearrange": greedy_rearrange,
    "gram": gram,
    "tuning_system": tuning_system,
    "block_lstsq": block_lstsq,
    "obs_greedy": obs_greedy,
    "trajectory_distance": trajectory_distance,
    "path_step": path_step,
    "hard_concrete": hard_concrete,
    "masked_norm": masked_norm,
    "masked_norm_backward": masked_norm_backward,
}
