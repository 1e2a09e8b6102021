"""How many units sites may keep: each for itself, or the same number in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastprune.errors import BudgetError
from fastprune.structure import Site, SiteKind


@dataclass(frozen=True)
class WidthGroup:
    """Sites that keep the same number of units, and the numbers to choose from.

    Attributes:
        members: indices of the sites.
        counts: int64, ascending.
    """

    members: list[int]
    counts: NDArray[np.int64]

    def total(self, curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """What each of ``counts`` comes to, summed over the members: float64 like ``counts``.

        Args:
            curves: of all sites, float64 [units + 1]: something about keeping so many units.
        """
        total = np.zeros(len(self.counts))
        for member in self.members:
            total += curves[member][self.counts]
        return total


def width_groups(
    sites: Sequence[Site], align: int, uniform: Sequence[SiteKind] | None
) -> list[WidthGroup]:
    """The groups of sites, and what each may keep; arguments are those of :meth:`Chooser.masks`.

    Raises:
        BudgetError: uniform widths of a model whose layers differ.
    """
    if uniform is None:
        return [WidthGroup([i], _counts(site, align)) for i, site in enumerate(sites)]
    groups = []
    for kind in dict.fromkeys(site.kind for site in sites):
        members = [i for i, site in enumerate(sites) if site.kind == kind]
        widths = {sites[i].units for i in members}
        if len(widths) != 1:
            raise BudgetError("uniform pruning needs a model whose layers all have the same widths")
        (width,) = widths
        # A stock config can describe neither an empty sublayer nor a last, odd step.
        step = min(align, width) if kind == "ffn" else 1
        counts = np.arange(step, width + 1, step) if kind in uniform else np.array([width])
        groups.append(WidthGroup(members, counts))
    return groups


def _counts(site: Site, align: int) -> NDArray[np.int64]:
    """Numbers of units a site may keep: multiples of ``align`` in an FFN, and all."""
    step = align if site.kind == "ffn" else 1
    return np.union1d(np.arange(0, site.units + 1, step), [site.units])
