"""What the units of a model cost: MACs, parameters (Kwon et al. 2022, section 3.1), latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastprune.budget.latency import LatencyTable
from fastprune.budget.spec import BudgetKind
from fastprune.errors import BudgetError
from fastprune.structure.site import Site, SiteKind


def macs_per_unit(site: Site, seq_len: float) -> float:
    """Multiply-accumulates that one unit costs for one sequence of ``seq_len`` tokens.

    Every matrix element is used once per token. Attention adds the scores and the weighted sum
    of values: a product per column each, for every token and every one that it sees. Biases,
    norms, embeddings and task heads are not counted, nor are the zeros by which heads of uneven
    widths are padded.
    """
    tokens = site.token_share * seq_len + site.fixed_tokens
    seen = tokens if site.window is None else min(tokens, site.window)
    return tokens * (site.weights_per_unit + seen * site.pairs_per_unit)


def params_per_unit(site: Site) -> float:
    """Parameters, biases included, that one unit holds over all projections of its sublayer."""
    return float(site.weights_per_unit + site.biases_per_unit)


@dataclass(frozen=True)
class Prices:
    """What units cost under one kind of budget.

    Attributes:
        sites: the priced sites, in order.
        curves: per site, float64 [units + 1]: what keeping so many units costs; none are free.
        fixed: what the model costs without any unit.
    """

    sites: tuple[Site, ...]
    curves: tuple[NDArray[np.float64], ...]
    fixed: float = 0.0

    @property
    def dense(self) -> float:
        """Cost of all units of all sites, and of the rest."""
        return self.of_counts([site.units for site in self.sites])

    def of_counts(self, counts: Sequence[int]) -> float:
        """Cost of ``counts[i]`` units of site ``i``, and of the rest."""
        spent = sum(float(curve[n]) for curve, n in zip(self.curves, counts, strict=True))
        return self.fixed + spent

    @property
    def linear(self) -> bool:
        """Whether every unit of a site costs the same."""
        return all(np.array_equal(curve, _line(curve[1], len(curve))) for curve in self.curves)

    @property
    def one_per_kind(self) -> bool:
        """Whether every unit of a kind costs the same, in all sites."""
        kinds = {(site.kind, curve[1]) for site, curve in zip(self.sites, self.curves, strict=True)}
        return self.linear and len(kinds) == len({kind for kind, _ in kinds})

    @property
    def per_unit(self) -> tuple[float, ...]:
        """Cost of one unit of each site.

        Raises:
            BudgetError: units of one site differ in cost.
        """
        if not self.linear:
            raise BudgetError(
                "what a unit takes depends on how many there are: this method needs a budget in "
                "macs or params"
            )
        return tuple(float(curve[1]) for curve in self.curves)

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


def price_sites(
    sites: Sequence[Site], kind: BudgetKind, seq_len: float, table: LatencyTable | None = None
) -> Prices:
    """Price the units of ``sites`` for a budget of ``kind``.

    Args:
        sites: of a model, in order.
        kind: of the budget.
        seq_len: tokens of a sequence, for MACs.
        table: of this model, for latency, in milliseconds.

    Raises:
        BudgetError: latency without a table.
        LatencyTableError: a table that does not fit the sites.
    """
    if kind == "latency":
        if table is None:
            raise BudgetError(
                "latency has no price without a table; measure one with fastprune lut"
            )
        return Prices(tuple(sites), tuple(table.curves(sites)), table.fixed_ms)
    prices = [
        macs_per_unit(site, seq_len) if kind == "macs" else params_per_unit(site) for site in sites
    ]
    curves = [_line(price, site.units + 1) for site, price in zip(sites, prices, strict=True)]
    return Prices(tuple(sites), tuple(curves))


def _line(price: float, count: int) -> NDArray[np.float64]:
    return np.arange(count, dtype=np.float64) * price
