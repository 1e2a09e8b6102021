"""The price of every unit in MACs and parameters (Kwon et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastprune.budget.spec import BudgetKind
from fastprune.errors import BudgetError
from fastprune.structure.site import Site, SiteKind


def macs_per_unit(site: Site, seq_len: float) -> float:
    """Multiply-accumulates that one unit costs for one sequence of ``seq_len`` tokens.

    Every matrix element is used once per token. Attention adds the scores and the weighted sum
    of values, ``seq_len**2`` products per column each. Biases, norms, embeddings and task heads
    are not counted.
    """
    scores = 2 * seq_len**2 * site.group if site.kind == "attention" else 0.0
    return seq_len * site.weights_per_unit + scores


def params_per_unit(site: Site) -> float:
    """Parameters, biases included, that one unit holds over all projections of its sublayer."""
    return float(site.weights_per_unit + site.biases_per_unit)


@dataclass(frozen=True)
class Prices:
    """What units cost under one kind of budget.

    Attributes:
        sites: the priced sites, in order.
        per_unit: cost of one unit of each site.
    """

    sites: tuple[Site, ...]
    per_unit: tuple[float, ...]

    @property
    def dense(self) -> float:
        """Cost of all units of all sites."""
        return float(sum(site.units * c for site, c in zip(self.sites, self.per_unit, strict=True)))

    def of_counts(self, counts: Sequence[int]) -> float:
        """Cost of ``counts[i]`` units of site ``i``."""
        return float(np.dot(np.asarray(counts, dtype=np.float64), self.per_unit))

    def of_kind(self, kind: SiteKind) -> float:
        """The price of a unit of ``kind``; zero where the model has no such site.

        Raises:
            BudgetError: units of one kind that differ in price, which the search cannot rank.
        """
        found = {c for site, c in zip(self.sites, self.per_unit, strict=True) if site.kind == kind}
        if len(found) > 1:
            raise BudgetError(
                f"{kind} units of this model differ in cost ({sorted(found)}): the Fisher search "
                "needs one price per kind of unit"
            )
        return found.pop() if found else 0.0


def price_sites(sites: Sequence[Site], kind: BudgetKind, seq_len: float) -> Prices:
    """Price every unit of ``sites`` for a budget of ``kind``, at ``seq_len`` tokens a sequence."""
    per_unit = [
        macs_per_unit(site, seq_len) if kind == "macs" else params_per_unit(site) for site in sites
    ]
    return Prices(tuple(sites), tuple(per_unit))
