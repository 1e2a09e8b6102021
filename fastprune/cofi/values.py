"""What gates multiply a model by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune.structure import Site


@dataclass(frozen=True)
class GateValues:
    """The value of every gate, each within [0, 1]; what is not named is open.

    Attributes:
        units: by the name of a site: [units], multiply heads and filters.
        sublayers: by the name of a site: scalars, multiply all that the sublayer adds to the
            residual stream, its bias included.
        hidden: [hidden size], multiply the dimensions of the residual stream.
    """

    units: Mapping[str, Tensor]
    sublayers: Mapping[str, Tensor]
    hidden: Tensor | None = None

    def kept(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """Which units are left of every site: bool [units] on the CPU, nothing of one that is
        closed as a whole."""
        masks = {}
        for site in sites:
            units = self.units.get(site.name)
            open_units = torch.ones(site.units).bool() if units is None else (units != 0).cpu()
            whole = self.sublayers.get(site.name)
            masks[site.name] = open_units if whole is None else open_units & (whole != 0).cpu()
        return masks

    def outputs(self, site: str) -> Tensor | None:
        """What multiplies the outputs of a site's projection: [hidden size] or a scalar; None =
        nothing does."""
        whole = self.sublayers.get(site)
        if whole is None or self.hidden is None:
            return self.hidden if whole is None else whole
        return whole * self.hidden
