"""Kwon et al. 2022 as the paper has it, in plain PyTorch and SciPy: what fastprune is held to.

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
