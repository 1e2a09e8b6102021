"""Latency tables: estimates for any pruned variant of a model, from measured sublayers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fastprune.budget.latency.place import Place
from fastprune.budget.latency.storage import (
    damaged,
    number,
    read_values,
    text,
    whole,
    write_values,
)
from fastprune.budget.latency.sublayer import Shape, SublayerLatency
from fastprune.budget.latency.workload import Workload
from fastprune.device import resolve_dtype
from fastprune.errors import FastpruneError, LatencyTableError
from fastprune.structure.declaration import anatomy
from fastprune.structure.site import Site
from fastprune.structure.sites import find_sites

_NOISY, _UNEVEN = 0.05, 0.1
"""Spread of passes, and how far parts are from the whole, above which a table had better be
measured again."""


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies from which that of any pruned variant of a model is estimated.

    A forward pass takes what the model takes without sublayers (embeddings, norms, head), plus
    what each sublayer takes for the number of units it keeps.

    Attributes:
        architecture: class of the model, such as ``"BertForSequenceClassification"``.
        layers: Transformer layers of the model.
        workload: the forward passes that were timed.
        place: where they ran.
        fixed_ms: milliseconds of a pass without any sublayer.
        dense_ms: milliseconds of a pass of the model that was measured.
        parts: what all parts of that model were measured to take, as a share of ``dense_ms``;
            ``sublayers`` have been scaled to add up to it.
        spread: how much slower than ``sublayers`` says passes were in the middle of all cases, as
            a share: below 0.02 on a quiet machine.
        sublayers: one entry per shape of unit.
        date: of the measurement, ISO 8601.
        fastprune: version.
    """

    architecture: str
    layers: int
    workload: Workload
    place: Place
    fixed_ms: float
    dense_ms: float
    parts: float
    spread: float
    sublayers: tuple[SublayerLatency, ...]
    date: str
    fastprune: str

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table.

        Raises:
            LatencyTableError: no such file, or one that holds anything but a sound table.
        """
        values = read_values(path)
        try:
            return cls.from_dict(values)
        except (AttributeError, KeyError, TypeError, ValueError, FastpruneError) as error:
            raise damaged(path, error) from error

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the table as JSON; the file appears whole or not at all.

        Raises:
            LatencyTableError: the file exists and may not be replaced.
            CheckpointError: it cannot be written; a previous file is then as it was.
        """
        write_values(path, self.to_dict(), overwrite=overwrite)

    def curves(self, sites: Sequence[Site]) -> list[NDArray[np.float64]]:
        """Milliseconds of keeping 0, 1 … units of every site: float64 [units + 1] each.

        Raises:
            LatencyTableError: a shape that was not measured, or more units than were.
        """
        return [self._sublayer(site).curve(site.units) for site in sites]

    def estimate(self, model: nn.Module) -> float:
        """Milliseconds of a pass of ``model``, which may be pruned.

        Raises:
            LatencyTableError: the table does not fit the model; names what differs.
        """
        self.check_fit(model)
        return self.fixed_ms + sum(float(curve[-1]) for curve in self.curves(find_sites(model)))

    def check_fit(self, model: nn.Module) -> None:
        """Refuse a model that the table says nothing about.

        Raises:
            LatencyTableError: naming what differs.
        """
        layers = len(anatomy(model).blocks)
        for what, measured, here in (
            ("a", self.architecture, type(model).__name__),
            ("layers:", self.layers, layers),
        ):
            if measured != here:
                raise LatencyTableError(
                    f"the latency table is of another model ({what} {measured}, here {here}); "
                    "measure this one with fastprune lut"
                )
        self.curves(find_sites(model))

    def warnings(self, model: nn.Module) -> list[str]:
        """What speaks against trusting it for ``model``, where that is now: one line each."""
        found = self.place.warnings(model)
        if self.spread > _NOISY:
            found.append(
                f"the machine was busy when the latency table was measured: passes took "
                f"{self.spread:.0%} longer than they could have; measure it again on a quiet one"
            )
        if abs(self.parts - 1) > _UNEVEN:
            found.append(
                f"the latency table is uneven: its parts add up to {self.parts:.0%} of the model; "
                "measure it again on a quiet machine, or with a larger batch"
            )
        return found

    def _sublayer(self, site: Site) -> SublayerLatency:
        shape = Shape.of(site)
        found = next((entry for entry in self.sublayers if entry.shape == shape), None)
        if found is None:
            known = [str(entry.shape) for entry in self.sublayers if entry.shape.kind == site.kind]
            raise LatencyTableError(
                f"the latency table is of another model: it holds {'; '.join(known) or 'no'} "
                f"({site.kind}), but {site.name} has {shape}; measure this one with fastprune lut"
            )
        if site.units > found.units[-1]:
            raise LatencyTableError(
                f"the latency table ends at {found.units[-1]} {site.kind} units, but {site.name} "
                f"has {site.units}; measure this model with fastprune lut"
            )
        return found

    def origin(self) -> dict[str, Any]:
        """Of what, where and when it was measured: plain values, ready for JSON."""
        workload = asdict(self.workload)
        workload["dtype"] = str(self.workload.dtype).removeprefix("torch.")
        return {
            "architecture": self.architecture,
            "layers": self.layers,
            "workload": workload,
            "place": asdict(self.place),
            "date": self.date,
            "fastprune": self.fastprune,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            **self.origin(),
            "fixed_ms": self.fixed_ms,
            "dense_ms": self.dense_ms,
            "parts": self.parts,
            "spread": self.spread,
            "sublayers": [entry.to_dict() for entry in self.sublayers],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        """The inverse of :meth:`to_dict`.

        Raises:
            LatencyTableError: values that no measurement gives.
        """
        workload = values["workload"]
        sublayers = tuple(SublayerLatency.from_dict(entry) for entry in values["sublayers"])
        if not sublayers or len({entry.shape for entry in sublayers}) < len(sublayers):
            raise LatencyTableError("there are no sublayers, or some of one shape twice")
        return cls(
            architecture=text(values, "architecture"),
            layers=whole(values, "layers"),
            workload=Workload(
                whole(workload, "batch"),
                whole(workload, "length"),
                resolve_dtype(text(workload, "dtype")),
                workload["compiled"] is True,
            ),
            place=Place.from_dict(values["place"]),
            fixed_ms=number(values, "fixed_ms"),
            dense_ms=number(values, "dense_ms"),
            parts=number(values, "parts"),
            spread=number(values, "spread", zero=True),
            sublayers=sublayers,
            date=text(values, "date"),
            fastprune=text(values, "fastprune"),
        )
