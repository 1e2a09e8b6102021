"""Ways to choose units: each scores them, all share the search under a budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, Prices
from fastprune.calibration import Statistics
from fastprune.errors import FastpruneError
from fastprune.selection.align import align_mask, uniform_masks
from fastprune.selection.search import search_masks
from fastprune.structure import Site, SiteKind, get_projection

METHODS = ("fisher", "magnitude", "random")
"""Names of the selection methods. Only ``fisher`` reads the data."""


def unit_importance(
    method: str, model: nn.Module, sites: Sequence[Site], statistics: Statistics | None, seed: int
) -> Tensor:
    """Score every unit: float32 or float64 [units of all sites], larger = keep.

    ``fisher`` is the diagonal Fisher information (Kwon et al. 2022, eq. 6); ``magnitude`` the
    squared norm of the unit's columns of the output projection; ``random`` a uniform number per
    parameter of the unit, so that heads and filters compete on equal terms.
    """
    if method == "fisher":
        assert statistics is not None
        return statistics.importance()
    if method == "magnitude":
        return torch.cat([_column_norms(model, site) for site in sites])
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(
            [torch.rand(site.units, generator=generator) * site.weights_per_unit for site in sites]
        )
    raise FastpruneError(f"unknown method {method!r}; use {', '.join(METHODS)}")


def select_masks(
    importance: Tensor,
    prices: Prices,
    budgets: Sequence[Budget],
    *,
    align: int = 1,
    uniform: Sequence[SiteKind] | None = None,
) -> Tensor:
    """Choose the units of several budgets of one kind: float32 [len(budgets), units], 1 = kept.

    Args:
        importance: [units of all sites].
        prices: what the units cost.
        budgets: what may be spent.
        align: filter counts are multiples of this.
        uniform: kinds of site that may shrink by the same count in every layer; ``None`` lets
            layers differ.
    """
    if uniform is not None:
        return uniform_masks(importance, prices, budgets, uniform, align)
    masks = search_masks(importance, prices, budgets)
    if align == 1:
        return masks
    limits = [budget.limit(prices.dense) for budget in budgets]
    aligned = [
        align_mask(mask, importance, prices, limit, align)
        for mask, limit in zip(masks, limits, strict=True)
    ]
    return torch.stack(aligned)


def _column_norms(model: nn.Module, site: Site) -> Tensor:
    weight, _ = get_projection(model, site)
    return weight.detach().float().square().sum(0).view(site.units, site.group).sum(1).cpu()
