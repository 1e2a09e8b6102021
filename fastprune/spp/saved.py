"""A searched path as a file, from which any number of budgets are cut."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.atomic import atomic_file
from fastprune.errors import CheckpointError, FastpruneError
from fastprune.fingerprint import fingerprint_model
from fastprune.structure import Site


@dataclass(frozen=True)
class SearchedPath:
    """The order in which the units of a model have entered a path.

    Attributes:
        model: fingerprint of the model.
        granularity: how finely it was cut.
        sites: names, in order.
        units: of each site.
        order: of all units, the first to enter first.
        crossing: when each unit of ``order`` entered; None = it has not.
        origin: with what it was searched.
    """

    model: str
    granularity: str
    sites: tuple[str, ...]
    units: tuple[int, ...]
    order: tuple[int, ...]
    crossing: tuple[float | None, ...]
    origin: dict[str, Any]

    @property
    def entered(self) -> float:
        """Share of the units that have entered; the others are ranked by how close they came."""
        return sum(time is not None for time in self.crossing) / len(self.crossing)

    def units_in_order(self) -> Tensor:
        """int64 [units of all sites], the first to enter first."""
        return torch.tensor(self.order)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        with atomic_file(file) as path:
            path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> SearchedPath:
        """The inverse of :meth:`save`.

        Raises:
            CheckpointError: it cannot be read, or is something else.
        """
        try:
            values: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
            lists = ("sites", "units", "order", "crossing")
            for name in lists:
                values[name] = tuple(values[name])
            found = cls(**values)
            whole = sorted(found.order) == list(range(sum(found.units)))
            if not whole or len(found.crossing) != len(found.order):
                raise ValueError("its order is not one of all units")
            if len(found.sites) != len(found.units):
                raise ValueError("it has other numbers of sites and of their units")
            times = [time for time in found.crossing if time is not None]
            if times != sorted(map(float, times)) or None in found.crossing[: len(times)]:
                raise ValueError("its times do not ascend")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"cannot read a path from {os.fspath(file)}: {error}; name a file that fastprune "
                "search has written"
            ) from error
        return found

    def check_fit(self, model: nn.Module, sites: Sequence[Site], granularity: str) -> None:
        """Refuse a path of another model, or of one that was cut in another way.

        Raises:
            FastpruneError: saying which.
        """
        if self.granularity != granularity:
            raise FastpruneError(
                f"the path was searched with granularity={self.granularity}, not {granularity}; "
                f"prune with --granularity {self.granularity}, or search again"
            )
        shape = [(site.name, site.units) for site in sites]
        if shape != list(zip(self.sites, self.units, strict=True)):
            raise FastpruneError("the path is of a model with other layers; search this one's")
        if self.model != fingerprint_model(model):
            raise FastpruneError("the path is of a model with other weights; search this one's")
