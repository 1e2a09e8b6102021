"""Site: the one idea every room shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

SiteKind = Literal["attention", "ffn", "qk", "v"]


@dataclass(frozen=True)
class Site:
    """The input of an output projection ``y = W (x * mask) + b``, cut into prunable units.

    ``x`` has ``units * group`` columns. In attention a unit is a head (a key/value group under
    grouped-query attention) and ``group`` its columns; in an FFN a unit is one filter and
    ``group`` is 1. All module names are dotted paths from the model, as in
    ``model.get_submodule``.

    Dimensions inside heads are sites, too (:func:`fastprune.structure.find_inner_sites`): those of
    values (``"v"``) cut the same input into single columns, those of queries and keys (``"qk"``)
    their products, which are summed up to logits. Their masks act at ``gates``.
    """

    name: str
    """Path of the output projection, for ``"qk"`` of the attention module; unique among the sites
    of one search, and the key of masks and reports."""
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
    pairs_per_unit: int
    """Multiply-accumulates that vanish with one unit for every pair of tokens: those of logits and
    of weighted sums of values."""
    token_share: float = 1.0
    """How many tokens there are here for each at the model's entrance."""
    fixed_tokens: int = 0
    """How many there are on top, whatever enters: learned queries."""
    window: int | None = None
    """How many tokens see each other; None = all. What fills windows up at the borders of a map is
    not counted."""
    sample_axis: int = 0
    """Which axis of ``x`` is that of samples, or of their windows."""
    heads: int = 1
    """How many heads share every unit: ``x`` has the columns of all units once for each."""
    gates: tuple[str, ...] = ()
    """Modules whose outputs the units are, in place of the input of the projection. The mask
    multiplies that of the first, and so the products with a second."""

    @property
    def columns(self) -> int:
        """Number of columns of ``x``."""
        return self.units * self.group * self.heads

    def spread(self, mask: torch.Tensor) -> torch.Tensor:
        """Values per unit [units] as values per column [columns]."""
        return mask.repeat_interleave(self.group).repeat(self.heads)
