"""Choosing by a score per unit, as if units did not depend on each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, Prices
from fastprune.selection.align import align_mask, uniform_masks
from fastprune.selection.search import search_masks
from fastprune.structure import Site, SiteKind, get_projection


class Ranked:
    """Keeps the units with the largest scores (a :class:`Chooser`)."""

    def __init__(self, importance: Tensor) -> None:
        """Args: importance: [units of all sites], larger = keep; finite, any float dtype."""
        self._importance = importance

    def masks(
        self,
        prices: Prices,
        budgets: Sequence[Budget],
        *,
        align: int = 1,
        uniform: Sequence[SiteKind] | None = None,
    ) -> Tensor:
        """See :meth:`Chooser.masks`."""
        if uniform is not None:
            return uniform_masks(self._importance, prices, budgets, uniform, align)
        masks = search_masks(self._importance, prices, budgets)
        if align == 1:
            return masks
        limits = [budget.limit(prices.dense) for budget in budgets]
        aligned = [
            align_mask(mask, self._importance, prices, limit, align)
            for mask, limit in zip(masks, limits, strict=True)
        ]
        return torch.stack(aligned)


def magnitudes(model: nn.Module, sites: Sequence[Site]) -> Tensor:
    """Squared norms of the units' columns of the output projections: float32 [units]."""
    return torch.cat([_column_norms(model, site) for site in sites])


def random_scores(sites: Sequence[Site], seed: int) -> Tensor:
    """A uniform number per parameter of a unit, so that heads and filters compete as equals."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.rand(site.units, generator=generator) * site.weights_per_unit for site in sites]
    )


def _column_norms(model: nn.Module, site: Site) -> Tensor:
    weight, _ = get_projection(model, site)
    return weight.detach().float().square().sum(0).view(site.units, site.group).sum(1).cpu()
