"""The methods as their papers have them, in plain PyTorch and SciPy: what fastprune is held to.

Kwon et al. 2022, and Optimal Brain Surgeon (Hassibi & Stork 1993) on groups of columns.

Nothing here is clever on purpose. Costs are recomputed at every step and every batch, and the
per-head outputs are materialised; the results are those of ``fastprune.ops`` all the same, which
``tests/benchmarks/test_textbook.py`` checks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse.linalg import lsmr
from torch import Tensor

Batches = Sequence[tuple[Tensor, Tensor]]
"""Inputs of an output projection [tokens, columns], and what it should give [tokens, outputs]."""


def greedy_rearrange(grads: Tensor, mask: Tensor) -> Tensor:
    """Rearrange one site's mask, evaluating every exchange on the gradient rows (section 4.2).

    Args:
        grads: [rows, units] gradients of the mask.
        mask: [units], zero = pruned; only the number of zeros matters.

    Returns:
        The rearranged mask, [units].
    """
    per_unit = grads.T.contiguous()
    order = per_unit.square().sum(1).argsort(stable=True).tolist()
    count = int((mask == 0).sum())
    pruned = order[:count]
    for unit in order[count:]:
        pruned.append(unit)
        rows = per_unit[pruned]
        without_each = rows.sum(0) - rows
        pruned.pop(int(without_each.square().sum(1).argmin()))
    result = torch.ones_like(mask)
    result[pruned] = 0.0
    return result


def obs_greedy(inverse: Tensor, weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Optimal Brain Surgeon on one site, P and W updated in full after every unit.

    Args:
        inverse: [columns, columns], symmetric positive definite.
        weight: [columns, outputs].
        group: columns per unit.

    Returns:
        The units in order of removal, and the error after each.
    """
    p, w = inverse.clone(), weight.clone()
    units = len(w) // group
    by_unit = w.view(units, group, -1)
    blocks = p.view(units, group, units, group).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    gone = torch.zeros(units, dtype=torch.bool, device=p.device)
    order, costs = [], []
    for _ in range(units):
        if group == 1:
            cost = w.square().sum(1) / p.diagonal()
        else:
            # What has gone is singular; its cost is not asked for.
            factors, _ = torch.linalg.cholesky_ex(blocks)
            cost = (by_unit * torch.cholesky_solve(by_unit, factors)).sum((1, 2))
        unit = cost.masked_fill_(gone, float("inf")).argmin()
        order.append(unit)
        costs.append(cost[unit])
        gone[unit] = True
        columns = slice(int(unit) * group, (int(unit) + 1) * group)
        if group == 1:
            column = p[columns].flatten() / p[columns, columns].sqrt().flatten()
            white = w[columns].flatten() / p[columns, columns].sqrt().flatten()
            p.addr_(column, column, alpha=-1)
            w.addr_(column, white, alpha=-1)
        else:
            solved = torch.linalg.solve(p[columns, columns], torch.hstack([p[columns], w[columns]]))
            across = p[:, columns].clone()
            p.addmm_(across, solved[:, : len(p)], alpha=-1)
            w.addmm_(across, solved[:, len(p) :], alpha=-1)
        # What is left of the unit is rounding; a block of ones keeps the batch solvable.
        p[columns] = p[:, columns] = w[columns] = 0.0
        p[columns, columns].fill_diagonal_(1.0)
    return torch.stack(order), torch.stack(costs).cumsum(0)


def tune_heads(batches: Batches, weight: Tensor, group: int) -> Tensor:
    """Scales of the heads of one attention layer, from the outputs of each head (section 4.3).

    The original's constant column is left out: it is no part of what is compared.
    """
    heads = weight.shape[1] // group
    a, b = weight.new_zeros(heads, heads), weight.new_zeros(heads)
    for x, target in batches:
        per_head = torch.einsum(
            "thg,ohg->hto", x.unflatten(1, (heads, group)), weight.unflatten(1, (heads, group))
        )
        per_head = per_head.flatten(1)
        a += per_head @ per_head.T
        b += per_head @ target.flatten()
    return _scales(a, b)


def tune_filters(batches: Batches, weight: Tensor) -> Tensor:
    """Scales of the filters of one FFN, from ``(W^T W) * (X^T X)`` of every batch (section 4.3)."""
    filters = weight.shape[1]
    a, b = weight.new_zeros(filters, filters), weight.new_zeros(filters)
    products = weight.T @ weight
    for x, target in batches:
        a += products * (x.T @ x)
        b += (x * (target @ weight)).sum(0)
    return _scales(a, b)


def _scales(a: Tensor, b: Tensor) -> Tensor:
    """Damped LSMR on the normal matrix itself, around a scale of one, with its default stops."""
    with np.errstate(over="ignore"):  # its running condition estimate, not the solution
        deviation = lsmr(a.cpu().numpy(), (b - a.sum(1)).cpu().numpy(), damp=1.0)[0]
    return 1 + torch.from_numpy(deviation).to(a)
