"""Which gates a model has, and what they are gates of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fastprune.budget import BudgetKind, Prices, price_sites
from fastprune.cofi.gating import gated_stream
from fastprune.cofi.values import GateValues
from fastprune.structure import Site, find_sites

UNITS = {"attention": "heads", "ffn": "filters"}
"""Kinds of gates on units, by the kind of a site."""


@dataclass(frozen=True)
class GateLayout:
    """The gates of a model, as :func:`fastprune.ops.hard_concrete` has them in a row.

    Units of all sites come first, site after site; then one gate per site for its sublayer; then
    those of hidden dimensions.

    Attributes:
        sites: of the model.
        sizes: gated units by site; 0 where units are not gated.
        sublayers: whether sublayers are gated.
        hidden: gated hidden dimensions; 0 if they are not gated.
        kind: of the budget that prices are of.
        seq_len: tokens of a sequence, for MACs.
    """

    sites: tuple[Site, ...]
    sizes: tuple[int, ...]
    sublayers: bool
    hidden: int
    kind: BudgetKind
    seq_len: float

    @classmethod
    def of(
        cls, model: nn.Module, gates: Sequence[str], kind: BudgetKind, seq_len: float
    ) -> GateLayout:
        """The gates of ``model``, of the given kinds (:data:`GATES`).

        Raises:
            UnsupportedModelError: hidden dimensions that cannot be removed.
        """
        sites = tuple(find_sites(model))
        return cls(
            sites=sites,
            sizes=tuple(site.units if UNITS[site.kind] in gates else 0 for site in sites),
            sublayers="sublayers" in gates,
            hidden=gated_stream(model).width if "hidden" in gates else 0,
            kind=kind,
            seq_len=seq_len,
        )

    @property
    def lengths(self) -> list[int]:
        """Gates of every part: of each site's units, of all sublayers, of hidden dimensions."""
        return [*self.sizes, len(self.sites) if self.sublayers else 0, self.hidden]

    @cached_property
    def prices(self) -> Prices:
        """What units cost while all hidden dimensions are there."""
        return price_sites(self.sites, self.kind, self.seq_len)

    @property
    def shares(self) -> Tensor:
        """float64 [sites]: what each site costs, as a share of all of them."""
        prices = self.prices
        whole = [float(curve[-1]) for curve in prices.curves]
        return torch.tensor(whole, dtype=torch.float64) / prices.dense

    def values(self, row: Tensor) -> GateValues:
        """The values of all gates in a row, [gates], by what they are of; views of it."""
        *units, sublayers, hidden = row.split(self.lengths)
        named = zip(self.sites, units, strict=True)
        return GateValues(
            {site.name: part for site, part in named if len(part)},
            {site.name: value for site, value in zip(self.sites, sublayers.unbind(), strict=False)},
            hidden if len(hidden) else None,
        )

    def cost(self, values: GateValues) -> float:
        """What is left under gates costs, in the unit of the budget."""
        masks = values.kept(self.sites)
        counts = [int(masks[site.name].sum()) for site in self.sites]
        sites = self.sites
        if values.hidden is not None:
            sites = narrowed(sites, int((values.hidden != 0).sum()))
        return price_sites(sites, self.kind, self.seq_len).of_counts(counts)


def narrowed(sites: Sequence[Site], hidden: int) -> tuple[Site, ...]:
    """The sites of a model with so many hidden dimensions left.

    All matrix elements of a unit are in rows or columns of as many.
    """
    return tuple(
        replace(
            site,
            outputs=hidden,
            weights_per_unit=site.weights_per_unit * hidden // site.outputs,
        )
        for site in sites
    )
