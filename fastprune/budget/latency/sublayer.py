"""What one sublayer takes, by the number of its units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fastprune.budget.latency.storage import number, text, whole
from fastprune.errors import LatencyTableError
from fastprune.structure.site import Site, SiteKind


@dataclass(frozen=True)
class Shape:
    """What a unit is made of. Units of one shape take the same time in every layer.

    Attributes:
        kind: of sublayer.
        group: columns per unit, as in :class:`Site`.
        outputs: width of the residual stream.
        weights_per_unit: matrix elements per unit, over all projections.
    """

    kind: SiteKind
    group: int
    outputs: int
    weights_per_unit: int

    @classmethod
    def of(cls, site: Site) -> Shape:
        """The shape of the units of a site."""
        return cls(site.kind, site.group, site.outputs, site.weights_per_unit)

    def __str__(self) -> str:
        unit = f"heads of {self.group} columns" if self.kind == "attention" else "filters"
        return f"{unit} with {self.weights_per_unit} weights, hidden size {self.outputs}"


@dataclass(frozen=True)
class SublayerLatency:
    """What one sublayer of a shape adds to a forward pass.

    Attributes:
        shape: of its units.
        units: numbers of units that were measured, increasing, from 1 on.
        milliseconds: of a sublayer with so many units; positive. One without units takes none.
    """

    shape: Shape
    units: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def curve(self, units: int) -> NDArray[np.float64]:
        """Milliseconds of 0, 1 … ``units`` units, linear between those measured: [units + 1]."""
        return np.interp(np.arange(units + 1), (0, *self.units), (0.0, *self.milliseconds))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: times stand beside their unit counts."""
        times = dict(zip(map(str, self.units), self.milliseconds, strict=True))
        return {**asdict(self.shape), "milliseconds": times}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SublayerLatency:
        """The inverse of :meth:`to_dict`.

        Raises:
            LatencyTableError: values that no measurement gives.
        """
        kind = text(values, "kind")
        if kind not in get_args(SiteKind):
            raise LatencyTableError(f"there is no kind of sublayer {kind!r}")
        times = values["milliseconds"]
        units = tuple(int(count) for count in times)
        if not units or units[0] < 1 or any(b <= a for a, b in pairwise(units)):
            raise LatencyTableError(f"unit counts of {kind} do not rise from 1 or more")
        return cls(
            shape=Shape(
                cast(SiteKind, kind),
                *(whole(values, name) for name in ("group", "outputs", "weights_per_unit")),
            ),
            units=units,
            milliseconds=tuple(number(times, count) for count in times),
        )
