"""Mask search: the units with the largest kept importance under each budget.

Kwon et al. 2022, section 4.1, algorithm 1: keep the n most important heads of the whole model,
spend what is left on the most important filters, and take the n that keeps the most importance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastprune.budget import Budget, Prices, round_up
from fastprune.errors import BudgetError
from fastprune.ops.host import budget_search
from fastprune.selection.packed import kind_columns


def search_masks(importance: Tensor, prices: Prices, budgets: Sequence[Budget]) -> Tensor:
    """Search the masks of several budgets of one kind at once.

    Args:
        importance: [units of all sites], what is lost with each unit; finite, any float dtype.
        prices: what the units cost.
        budgets: what may be spent, all of the kind that ``prices`` holds.

    Returns:
        float32 [len(budgets), units of all sites] on the CPU, 1 = kept.

    Raises:
        BudgetError: a budget that nothing fits into; names the smallest reachable one.
    """
    kinds = [site.kind for site in prices.sites]
    # At least one head is kept; one filter, in a model without heads.
    check_reachable(prices, budgets, prices.of_kind("attention" if "attention" in kinds else "ffn"))
    dense = prices.dense
    scores = importance.detach().to("cpu", torch.float64)
    columns = {kind: kind_columns(prices.sites, kind) for kind in ("attention", "ffn")}
    heads, filters = budget_search(
        scores[columns["attention"]].numpy(),
        scores[columns["ffn"]].numpy(),
        # What is not there has no price, and any will do.
        prices.of_kind("attention") or 1.0,
        prices.of_kind("ffn") or 1.0,
        np.array([budget.limit(dense) for budget in budgets], dtype=np.float64),
    )
    masks = torch.zeros(len(budgets), len(scores))
    masks[:, columns["attention"]] = torch.from_numpy(heads).float()
    masks[:, columns["ffn"]] = torch.from_numpy(filters).float()
    return masks


def check_reachable(prices: Prices, budgets: Sequence[Budget], smallest: float) -> None:
    """Refuse budgets below the least that can be kept.

    Args:
        prices: what the units cost.
        budgets: what may be spent.
        smallest: the least that can be kept costs this.

    Raises:
        BudgetError: naming the smallest reachable budget.
    """
    dense = prices.dense
    for budget in budgets:
        if budget.limit(dense) < smallest:
            share = f"{budget.kind}={round_up(smallest / dense):g}"
            raise BudgetError(
                f"budget {budget} cannot be reached: the smallest for this model is {share} "
                f"({smallest:.4g} of {budget.amount(dense)})"
            )
