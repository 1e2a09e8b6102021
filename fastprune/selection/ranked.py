"""Choosing by a score per unit, as if units did not depend on each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastprune.budget import Budget, Prices
from fastprune.selection.packed import split_packed
from fastprune.selection.paths import Paths, RemovalPath
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
        whole = all(site.kind in ("attention", "ffn") for site in prices.sites)
        if whole and uniform is None and align == 1 and prices.one_per_kind:
            return search_masks(self._importance, prices, budgets)
        paths = ranked_paths(self._importance, prices.sites)
        return Paths(paths).masks(prices, budgets, align=align, uniform=uniform)


def ranked_paths(importance: Tensor, sites: Sequence[Site]) -> list[RemovalPath]:
    """Remove the units of every site by their scores, which is what each costs.

    Args:
        importance: [units of all sites], not negative.
        sites: in order.
    """
    paths = []
    for scores in split_packed(importance.detach().double().cpu(), sites).values():
        # Of equal units the one with the lower index stays.
        best = scores.sort(descending=True, stable=True)
        lost = best.values.flip(0).cumsum(0).flip(0)
        paths.append(RemovalPath(best.indices.flip(0), np.append(lost.numpy(), 0.0)))
    return paths


def magnitudes(model: nn.Module, sites: Sequence[Site]) -> Tensor:
    """Squared norms of the units' columns of the output projections: float64 [units]."""
    return torch.cat([_column_norms(model, site) for site in sites])


def random_scores(sites: Sequence[Site], seed: int) -> Tensor:
    """A uniform number per parameter of a unit, so that heads and filters compete as equals."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.rand(site.units, generator=generator) * site.weights_per_unit for site in sites]
    )


def _column_norms(model: nn.Module, site: Site) -> Tensor:
    weight, _ = get_projection(model, site)
    return weight.detach().double().square().sum(0).view(site.units, site.group).sum(1).cpu()
