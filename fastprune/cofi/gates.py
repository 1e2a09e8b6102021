"""Hard-concrete gates as parameters that learn (Louizos et al. 2018; Xia et al. 2022, CoFi)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastprune import ops
from fastprune.cofi.layout import UNITS, GateLayout
from fastprune.cofi.values import GateValues
from fastprune.errors import NumericalError

LARGEST = math.log(100)
"""Bound of alphas: there one draw in 500 is closed, or one in 21 open."""
_SLOPE = 1.2
"""Of the deterministic gate's sigmoid: 0.8 / T with T = 2/3, as in CoFi's released code."""
_OPEN_AT_ZERO = 2 / 3 * math.log(11)
"""The logit of a gate's probability to be open where its alpha is 0: T ln(1.1 / 0.1)."""
_NONE: Mapping[str, float] = {}
_MARGIN = 1e-9
"""Of a shift, for rounding."""
_SPREAD = 0.01
"""Standard deviation of alphas around where they start."""


class Gates(nn.Module):
    """All gates of a model.

    Attributes:
        alpha: float32 [gates], the location of each gate.
    """

    shares: Tensor

    def __init__(self, layout: GateLayout, start: Tensor | None = None, *, seed: int = 0) -> None:
        """Make gates that are open, or that start where they are told to.

        Args:
            layout: which there are.
            start: [gates], alphas to start from, which are kept within their bounds.
            seed: of the small differences between open gates.
        """
        super().__init__()
        if start is None:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(sum(layout.lengths), generator=generator)
            start = LARGEST - _SPREAD * noise.abs()
        self.layout = layout
        self.alpha = nn.Parameter(start.float())
        self.register_buffer("shares", layout.shares, persistent=False)
        self.clamp_()

    def draw(self) -> tuple[GateValues, Tensor]:
        """Values for one batch, and the sparsity that is expected of such draws, float64 scalar.

        Both have gradients by :attr:`alpha`. The noise is of the global stream of random numbers,
        so each of several processes draws its own.
        """
        noise = torch.rand_like(self.alpha)
        row, sparsity = _Draw.apply(self.alpha, noise, self.layout, self.shares)
        return self.layout.values(row), sparsity

    @torch.no_grad()
    def sparsity(self) -> float:
        """The share of all sites' cost that is expected to go."""
        noise = torch.full_like(self.alpha, 0.5)
        return float(_drawn(self.alpha, noise, self.layout, self.shares).sparsity)

    @torch.no_grad()
    def settled(self, shift: float = 0.0, others: Mapping[str, float] = _NONE) -> GateValues:
        """Values without chance, on the CPU: as many of each part are 0 as are expected to be.

        A part is the units of a site, or the hidden dimensions; those with the smallest alphas go.
        A sublayer goes where that is likelier than not. What stays is nearly open.

        Args:
            shift: is added to all alphas where they say how many go, and not to the values of
                those that stay.
            others: the same by kind of gate (:data:`GATES`), where it is another.

        Raises:
            NumericalError: gates that are not finite.
        """
        alpha = self.alpha.cpu().double()
        if not alpha.isfinite().all():
            raise NumericalError("the gates do not stay finite")
        values = torch.sigmoid(_SLOPE * alpha)
        parts = values.split(self.layout.lengths), alpha.split(self.layout.lengths)
        *units, whole, hidden = (_Part(*part) for part in zip(*parts, strict=True))
        kinds = (UNITS[site.kind] for site in self.layout.sites)
        rows = [
            part.without_the_least(others.get(kind, shift))
            for part, kind in zip(units, kinds, strict=True)
        ]
        rows.append(whole.without_the_unlikely(others.get("sublayers", shift)))
        rows.append(hidden.without_the_least(others.get("hidden", shift), keep=1))
        return self.layout.values(torch.cat(rows).to(self.alpha.dtype))

    def first_sublayer(self) -> float:
        """The least shift at which any sublayer is open; where these have no gates, any is."""
        *_, whole, _ = self.alpha.detach().cpu().double().split(self.layout.lengths)
        if not len(whole):
            return -math.inf
        return -float(whole.max()) - _OPEN_AT_ZERO + _MARGIN

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep alphas where gates can still change their minds."""
        self.alpha.clamp_(-LARGEST, LARGEST)


class _Part:
    """Gates that are counted together: their settled values, and where they are."""

    def __init__(self, values: Tensor, alpha: Tensor) -> None:
        self.values, self.alpha = values, alpha

    def likely(self, shift: float) -> Tensor:
        """How likely each is open."""
        return torch.sigmoid(self.alpha + shift + _OPEN_AT_ZERO)

    def without_the_least(self, shift: float, *, keep: int = 0) -> Tensor:
        open_gates = max(keep, round(float(self.likely(shift).sum())))
        go = self.values.argsort(stable=True)[: len(self.values) - open_gates]
        return self.values.index_fill(0, go, 0)

    def without_the_unlikely(self, shift: float) -> Tensor:
        return self.values * (self.likely(shift) >= 0.5)


def _drawn(alpha: Tensor, noise: Tensor, layout: GateLayout, shares: Tensor) -> ops.DrawnGates:
    return ops.hard_concrete(
        alpha,
        noise,
        layout.sizes,
        shares,
        sublayers=layout.sublayers,
        hidden=layout.hidden,
    )


class _Draw(torch.autograd.Function):
    """:func:`fastprune.ops.hard_concrete`, whose slopes come with its values."""

    @staticmethod
    def forward(
        context: Any, alpha: Tensor, noise: Tensor, layout: GateLayout, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = _drawn(alpha, noise, layout, shares)
        context.save_for_backward(found.slopes, found.sparsity_slopes)
        return found.gates, found.sparsity

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gates, sparsity = gradients
        slopes, sparsity_slopes = context.saved_tensors
        return gates * slopes + sparsity.to(slopes) * sparsity_slopes, None, None, None
