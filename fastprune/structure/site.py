"""Site: the one idea every room shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SiteKind = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Site:
    """The input of an output projection ``y = W (x * mask) + b``, cut into prunable units.

    ``x`` has ``units * group`` columns. In attention a unit is a head (a key/value group under
    grouped-query attention) and ``group`` its columns; in an FFN a unit is one filter and
    ``group`` is 1. All module names are dotted paths from the model, as in
    ``model.get_submodule``.
    """

    name: str
    """Path of the output projection; unique within the model and the key of masks and reports."""
    layer: int
    kind: SiteKind
    units: int
    group: int
    outputs: int
    """Width of ``y``, the residual stream (the hidden size)."""
    residual: str
    """Module whose first input is the residual stream that ``y`` is added to."""
    block: str
    """Path of the Transformer layer the site belongs to."""
    weights_per_unit: int
    """Matrix elements, over all projections, that vanish with one unit."""
    biases_per_unit: int
    """Bias elements that vanish with one unit."""

    @property
    def columns(self) -> int:
        """Number of columns of ``x``."""
        return self.units * self.group
