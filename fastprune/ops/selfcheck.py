"""A quick check that the operations compute what they should on this very machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastprune import ops
from fastprune.ops import reference

_SIZES = [5, 33]


def self_check(device: torch.device) -> dict[str, float]:
    """Run every operation once and compare it with its float64 reference.

    Args:
        device: where to run.

    Returns:
        Per operation, the largest error relative to the largest reference value; 0 and 1 for
        equal and different masks.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x, grad = random(3, 17, 12), random(3, 17, 12)
    valid = torch.arange(17, device=device) < torch.tensor([[17], [9], [1]], device=device)
    rows = random(70, sum(_SIZES))
    blocks = reference.fisher_outer(rows, _SIZES)
    masks = (random(2, sum(_SIZES)) > 0).float()
    moments = reference.gram(rows, None, None)
    weight, cross = random(7, sum(_SIZES)), random(sum(_SIZES), 7).double()
    mask, dual, gate, slope, threshold = (random(2, 33) for _ in range(5))
    never = torch.full((2, 33), float("inf"), dtype=torch.float64, device=device)
    rate = torch.full((2,), 0.5, device=device)
    shares = torch.tensor([0.25, 0.75], dtype=torch.float64, device=device)
    width = sum(_SIZES)
    columns = (random(width), random(width), random(width).relu())
    _, mean, rstd = (found.float() for found in reference.masked_norm(rows, *columns, 1e-5, True))
    dy = rows.flip(0)
    checks: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "mask_grad": lambda: (
            ops.mask_grad(x, grad, 4, valid=valid),
            reference.mask_grad(x, grad, 4, valid, None),
        ),
        "fisher_outer": lambda: (ops.fisher_outer(rows, _SIZES), blocks),
        "greedy_rearrange": lambda: (
            ops.greedy_rearrange(blocks.float(), _SIZES, masks),
            reference.greedy_rearrange(blocks.float(), _SIZES, masks),
        ),
        "gram": lambda: (ops.gram(rows), moments),
        "tuning_system": lambda: (
            ops.tuning_system(moments, weight, cross, 2)[0],
            reference.tuning_system(moments, weight, cross, 2)[0],
        ),
        "block_lstsq": lambda: (
            ops.block_lstsq(blocks, cross, _SIZES, 1e-2)[0],
            reference.block_lstsq(blocks, cross, _SIZES, 1e-2)[0],
        ),
        "obs_greedy": lambda: (
            ops.obs_greedy(blocks, cross, [5, 11], [1, 3])[1],
            reference.obs_greedy(blocks, cross, [5, 11], [1, 3])[1],
        ),
        "trajectory_distance": lambda: (
            ops.trajectory_distance(x, grad[0]),
            reference.trajectory_distance(x, grad[0]),
        ),
        "path_step": lambda: (
            ops.path_step(
                mask.clone(),
                dual.clone(),
                gate.clone(),
                never.clone(),
                slope,
                threshold,
                kappa=rate,
                alpha=rate,
                nu=rate,
                step=0,
            )[0],
            reference.path_step(mask, dual, gate, never, slope, threshold, rate, rate, rate, 0)[0],
        ),
        "hard_concrete": lambda: (
            ops.hard_concrete(gate[0], threshold[0], [3, 9], shares, sublayers=True, hidden=19)[4],
            reference.hard_concrete(gate[0], threshold[0], shares, [3, 9], True, 19)[4],
        ),
        "masked_norm": lambda: (
            ops.masked_norm(rows, *columns, eps=1e-5, centered=True).y,
            reference.masked_norm(rows, *columns, 1e-5, True)[0],
        ),
        "masked_norm_backward": lambda: (
            ops.masked_norm_backward(dy, rows, *columns, mean, rstd, centered=True).dx,
            reference.masked_norm_backward(dy, rows, *columns, mean, rstd, True)[0],
        ),
    }
    errors = {}
    for name, check in checks.items():
        got, expected = check()
        error = (got.double() - expected.double()).abs().max() / expected.double().abs().max()
        errors[name] = float(error)
    return errors


SELF_CHECK_LIMIT = 1e-5
"""Errors above this mean a broken kernel; float32 rounding stays two orders below."""
