"""The plain PyTorch that somebody without fastprune would write, in the same precision.

Whatever can be prepared once (padding, packing) is prepared outside the timed part, to the
advantage of the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mask_grad(x: Tensor, grad: Tensor, group: int) -> Tensor:
    """Products in the type of ``x``, summed in float32: [samples, units]."""
    products = (x * grad).unflatten(-1, (-1, group))
    return products.sum((1, 3), dtype=torch.float32)


def gram(x: Tensor, columns: Tensor, valid: Tensor, out: Tensor) -> None:
    """Chosen columns of the valid rows, gathered, and a float32 GEMM."""
    rows = x[valid].index_select(1, columns).float()
    out += rows.T @ rows


def gram_mixed(x: Tensor, columns: Tensor, valid: Tensor, out: Tensor) -> None:
    """The same on tensor cores: bfloat16 factors, float32 sums. CUDA only."""
    rows = x[valid].index_select(1, columns)
    out += torch.mm(rows.T, rows, out_dtype=torch.float32)


def tuning_system(gram: Tensor, weight: Tensor, cross: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """``W^T W`` in the type of the statistics, weighed, and summed over the groups."""
    w = weight.to(gram.dtype)
    units = w.shape[1] // group
    a = ((w.T @ w) * gram).view(units, group, units, group).sum((1, 3))
    return a, (cross * w.T).sum(1).view(units, group).sum(1)


def path_step(
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    gradient: Tensor,
    threshold: Tensor,
    rates: Tensor,
    step: float,
) -> None:
    """Elementwise and in place; masks, duals, gates and crossings are [paths, units]."""
    mask, dual, gate, crossing = state
    kappa, alpha, nu = rates  # each [paths, 1]
    pull = (mask - gate).div_(nu)
    mask.sub_((gradient + pull).mul_(kappa * alpha))
    missing = threshold - dual
    rise = pull.mul_(alpha)
    dual.add_(rise)
    torch.mul((dual - threshold).clamp_(min=0), kappa, out=gate)
    enters = (gate > 0) & crossing.isinf()
    fraction = (missing / rise).clamp_(0, 1)
    crossing.copy_(torch.where(enters, step + fraction.double(), crossing))


def hard_concrete(
    alpha: Tensor, noise: Tensor, sizes: list[int], shares: Tensor, hidden: int, *, outer: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates, expected sparsity and its slopes by autograd; ``outer`` forms the product of hidden
    and other gates as CoFi's code does, else their means are multiplied."""
    alpha = alpha.detach().requires_grad_()
    noise = noise.clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((noise.log() - (-noise).log1p() + alpha) * 1.5)
    gates = (1.2 * s - 0.1).clamp(0, 1)
    opened = torch.sigmoid(alpha + math.log(11) / 1.5)
    units, sublayers, rest = opened.split([sum(sizes), len(sizes), hidden])
    parts = units.split(sizes)
    weights = shares.to(alpha) * sublayers
    if outer:
        scaled = [w / len(part) * part for w, part in zip(weights, parts, strict=True)]
        kept = torch.outer(rest / hidden, torch.cat(scaled)).sum()
    else:
        kept = rest.mean() * (weights * torch.stack([part.mean() for part in parts])).sum()
    (slopes,) = torch.autograd.grad(1 - kept, alpha)
    return gates.detach(), 1 - kept.detach(), slopes


def masked_norm_gathered(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """Kept columns looked up and gathered, normalised, written into a copy of the rows; then the
    gates. The way of CoFi's code."""
    kept = torch.where(gate != 0)[0]
    inside = x.index_select(-1, kept)
    normed = torch.nn.functional.layer_norm(inside, (len(kept),), weight[kept], bias[kept])
    y = x.clone()
    y[:, kept] = normed
    return y * gate


def masked_norm_dense(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """Layer norm of everything, then the gates: another function once a gate is closed."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias) * gate


def damped(systems: Tensor, damping: float) -> Tensor:
    """``systems [..., n, n]`` with a ridge relative to their mean diagonals."""
    ridge = damping * systems.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    return systems + ridge.expand(systems.shape[:-1]).diag_embed()


def cholesky_batched(systems: Tensor, rhs: Tensor, damping: float) -> Tensor:
    """[systems, n, n] and [systems, n, k]."""
    factor, _ = torch.linalg.cholesky_ex(damped(systems, damping))
    return torch.cholesky_solve(rhs, factor)


def cholesky_loop(systems: Sequence[Tensor], rhs: Sequence[Tensor], damping: float) -> list[Tensor]:
    """One system after the other, of any sizes."""
    return [
        torch.cholesky_solve(b, torch.linalg.cholesky(damped(a, damping)))
        for a, b in zip(systems, rhs, strict=True)
    ]


def solve_batched(systems: Tensor, rhs: Tensor, damping: float) -> Tensor:
    """LU, which does not need to know that the systems are symmetric."""
    return torch.linalg.solve(damped(systems, damping), rhs)


def pad_systems(systems: Sequence[Tensor], rhs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Systems of any sizes as one batch, with zero rows and unit diagonals in the rest.

    The rest counts towards the mean diagonal, so the ridge is slightly another; the work is not.
    """
    largest = max(len(b) for b in rhs)
    padded = torch.eye(largest).to(systems[0]).repeat(len(systems), 1, 1)
    sides = padded.new_zeros(len(systems), largest, rhs[0].shape[1])
    for i, (a, b) in enumerate(zip(systems, rhs, strict=True)):
        padded[i, : len(b), : len(b)] = a
        sides[i, : len(b)] = b
    return padded, sides


def unit_rows(features: Tensor) -> Tensor:
    """Rows at unit length, in float32."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


def trajectory_distance(features: Tensor, teacher_gram: Tensor) -> Tensor:
    """Gram matrices of unit rows less the teacher's: a small difference of large numbers."""
    rows = unit_rows(features)
    return torch.baddbmm(teacher_gram, rows, rows.mT, beta=-1).square().sum((1, 2))


def trajectory_distance_of_differences(features: Tensor, teacher: Tensor) -> Tensor:
    """The same from differences of unit rows, as exact as float32 allows."""
    difference = unit_rows(features) - teacher
    product = torch.bmm(teacher + difference / 2, difference.mT)
    return (product + product.mT).square().sum((1, 2))
