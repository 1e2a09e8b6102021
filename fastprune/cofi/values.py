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
        flags = self._open()
        masks = {}
        for site in sites:
            units = flags.get(("units", site.name), torch.ones(site.units).bool())
            masks[site.name] = units & flags.get(("sublayers", site.name), torch.tensor(True))
        return masks

    def _open(self) -> dict[tuple[str, str], Tensor]:
        """Which gates of units and sublayers are open, brought to the CPU in one piece."""
        gates = {
            (part, name): value.detach().reshape(-1)
            for part in ("units", "sublayers")
            for name, value in getattr(self, part).items()
        }
        if not gates:
            return {}
        flags = (torch.cat(list(gates.values())) != 0).cpu().split([*map(len, gates.values())])
        return dict(zip(gates, flags, strict=True))

    def outputs(self, site: str) -> Tensor | None:
        """What multiplies the outputs of a site's projection: [hidden size] or a scalar; None =
        nothing does."""
        whole = self.sublayers.get(site)
        if whole is None or self.hidden is None:
            return self.hidden if whole is None else whole
        return whole * self.hidden
