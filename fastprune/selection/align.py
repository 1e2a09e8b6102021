"""Unit counts the hardware likes: multiples of 8, 16, 64, or the same in every layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastprune.budget import Budget, Prices
from fastprune.errors import BudgetError
from fastprune.selection.packed import split_packed, unit_counts
from fastprune.selection.search import check_reachable, round_up
from fastprune.structure.site import Site, SiteKind


def align_mask(
    mask: Tensor, importance: Tensor, prices: Prices, limit: float, align: int
) -> Tensor:
    """Make the filter count of every FFN site a multiple of ``align`` without passing ``limit``.

    Counts are rounded down; what that frees is spent on whole steps of ``align`` filters, the
    step with the largest importance first. Heads are left alone: their columns are already a
    multiple of the head width. A site that has fewer than ``align`` units keeps all or none.

    Args:
        mask: [units of all sites], nonzero = kept.
        importance: [units of all sites].
        prices: what the units cost.
        limit: the budget, absolute.
        align: filters per step.
    """
    sites = prices.sites
    counts = unit_counts(mask, sites)
    ffn = [i for i, site in enumerate(sites) if site.kind == "ffn"]
    for i in ffn:
        counts[i] -= counts[i] % min(align, sites[i].units)
    ranked = [
        np.sort(part.double().cpu().numpy())[::-1]
        for part in split_packed(importance, sites).values()
    ]
    spent = prices.of_counts(counts)

    def gain(i: int) -> float:
        return float(ranked[i][counts[i] : counts[i] + align].sum())

    while True:
        # A last, smaller step may fill a site whose width is no multiple itself.
        steps = {i: min(align, sites[i].units - counts[i]) for i in ffn}
        fits = [i for i in ffn if steps[i] and spent + steps[i] * prices.per_unit[i] <= limit]
        if not fits:
            break
        best = max(fits, key=gain)
        counts[best] += steps[best]
        spent += steps[best] * prices.per_unit[best]
    return top_units(importance, sites, counts)


def uniform_masks(
    importance: Tensor,
    prices: Prices,
    budgets: Sequence[Budget],
    prunable: Sequence[SiteKind],
    align: int = 1,
) -> Tensor:
    """Masks that keep the same number of heads, and of filters, in every layer.

    Every number of heads per layer is tried with the filters that still fit, as in the search
    over the whole model; the pair that keeps the most importance wins.

    Args:
        prunable: kinds of site that may shrink; the others stay whole.
        align: filters per layer are a multiple of this.

    Returns:
        float32 [len(budgets), units of all sites] on the CPU, 1 = kept.

    Raises:
        BudgetError: layers of unequal width, or a budget that uniform layers cannot meet.
    """
    check_reachable(prices, budgets)
    sites = prices.sites
    kinds: tuple[SiteKind, SiteKind] = ("attention", "ffn")
    widths = {kind: {site.units for site in sites if site.kind == kind} for kind in kinds}
    if any(len(found) != 1 for found in widths.values()):
        raise BudgetError("uniform pruning needs a model whose layers all have the same widths")
    choices = []
    for kind in kinds:
        (width,) = widths[kind]
        step = align if kind == "ffn" else 1
        choices.append(range(step, width + 1, step) if kind in prunable else [width])
    kept = _kept_importance(importance, sites)
    masks = []
    for budget in budgets:
        limit = budget.limit(prices.dense)
        best: list[int] | None = None
        best_value = -1.0
        smallest = float("inf")
        for heads, filters in itertools.product(*choices):
            counts = [heads if site.kind == "attention" else filters for site in sites]
            cost = prices.of_counts(counts)
            smallest = min(smallest, cost)
            value = sum(float(k[n]) for k, n in zip(kept, counts, strict=True))
            if cost <= limit and value > best_value:
                best, best_value = counts, value
        if best is None:
            share = round_up(smallest / prices.dense)
            raise BudgetError(
                f"budget {budget} cannot be reached by pruning {' and '.join(prunable)} units "
                f"uniformly: the smallest is {budget.kind}={share:g}"
            )
        masks.append(top_units(importance, sites, best))
    return torch.stack(masks)


def top_units(importance: Tensor, sites: Sequence[Site], counts: Sequence[int]) -> Tensor:
    """Keep the ``counts[i]`` most important units of site ``i`` (ties: lower index first)."""
    masks = []
    parts = split_packed(importance.detach().cpu(), sites).values()
    for part, count in zip(parts, counts, strict=True):
        order = part.sort(descending=True, stable=True).indices
        mask = torch.zeros(len(part))
        mask[order[:count]] = 1.0
        masks.append(mask)
    return torch.cat(masks)


def _kept_importance(importance: Tensor, sites: Sequence[Site]) -> list[np.ndarray]:
    """Per site, the importance kept by its best 0, 1, 2, … units."""
    return [
        np.concatenate([[0.0], np.sort(part.double().cpu().numpy())[::-1].cumsum()])
        for part in split_packed(importance, sites).values()
    ]
