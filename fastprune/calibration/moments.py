"""Second moments at the output projections: of their inputs, and of the gradients behind them.

Together they are a Kronecker-factored Fisher information of the projections' weights (Martens and
Grosse 2015, K-FAC): with ``y = W x``, changing ``W`` by ``D`` costs about ``tr(D H D^T F) / 2n``,
where ``H`` sums ``x x^T`` and ``F`` sums ``g g^T`` over ``n`` tokens, ``g`` being the gradient of a
sample's loss with respect to ``y``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune import ops
from fastprune.errors import NumericalError
from fastprune.structure.site import Site


@dataclass(frozen=True)
class InputMoments:
    """Moments of the inputs of the sites' output projections. Additive.

    Summed over the tokens whose outputs a loss depends on: in the last layer of a classifier that
    reads one token, that token alone.

    Attributes:
        columns: per site, the width of its input.
        grams: float32 [sum(columns**2)], the flat sums of ``x x^T``.
        sums: float32 [sum(columns)], the sums of ``x``.
        tokens: int64 [sites], how many tokens were summed.
    """

    columns: tuple[int, ...]
    grams: Tensor
    sums: Tensor
    tokens: Tensor

    @classmethod
    def zeros(cls, sites: Sequence[Site], device: torch.device) -> InputMoments:
        """No tokens seen yet."""
        columns = tuple(site.columns for site in sites)
        return cls(
            columns,
            torch.zeros(sum(n * n for n in columns), device=device),
            torch.zeros(sum(columns), device=device),
            torch.zeros(len(columns), dtype=torch.int64, device=device),
        )

    def gram(self, index: int) -> Tensor:
        """Of site ``index``: float32 [columns, columns], a view."""
        n = self.columns[index]
        start = sum(m * m for m in self.columns[:index])
        return self.grams[start : start + n * n].view(n, n)

    def sum(self, index: int) -> Tensor:
        """Of site ``index``: float32 [columns], a view."""
        start = sum(self.columns[:index])
        return self.sums[start : start + self.columns[index]]

    def centred(self, index: int) -> Tensor:
        """Gram of site ``index`` about the mean, which leaves a bias free: float64."""
        total = self.sum(index).double()
        return self.gram(index).double() - torch.outer(
            total, total / self.tokens[index].clamp(min=1)
        )

    def add(self, index: int, x: Tensor, seen: Tensor) -> None:
        """Add tokens in place.

        Args:
            index: which site's.
            x: [samples, tokens, columns], the inputs of its projection.
            seen: bool [samples, tokens], which of them count.
        """
        ops.gram(x, valid=seen, out=self.gram(index))
        # What padding holds, even NaN, does not matter.
        self.sum(index).add_(x.where(seen[..., None], 0).sum(dim=(0, 1), dtype=torch.float32))
        self.tokens[index] += seen.sum()

    def __add__(self, other: InputMoments) -> InputMoments:
        """Sums over disjoint tokens of the same sites add up."""
        return InputMoments(
            self.columns,
            self.grams + other.grams.to(self.grams.device),
            self.sums + other.sums.to(self.sums.device),
            self.tokens + other.tokens.to(self.tokens.device),
        )


class Moments:
    """What a calibration sums up at the output projections, batch by batch."""

    def __init__(
        self,
        sites: Sequence[Site],
        device: torch.device,
        *,
        output_fisher: bool = True,
        inputs: bool = True,
    ) -> None:
        """Start from nothing.

        Args:
            sites: of one model, in order.
            device: where sums are kept.
            output_fisher: whether to sum ``g g^T``.
            inputs: whether to sum ``x x^T`` and ``x``.
        """
        outputs = sites[0].outputs
        self.output_fisher = (
            torch.zeros(len(sites), outputs, outputs, device=device) if output_fisher else None
        )
        self.inputs = InputMoments.zeros(sites, device) if inputs else None

    def add(self, index: int, x: Tensor, gradient: Tensor, valid: Tensor | None) -> None:
        """Add a batch at one site.

        Args:
            index: which site.
            x: [samples, tokens, columns], inputs of its projection.
            gradient: [samples, tokens, outputs], of the summed loss.
            valid: bool [samples, tokens], a real token; None = all are.
        """
        if self.output_fisher is not None:
            ops.gram(gradient, valid=valid, out=self.output_fisher[index])
        if self.inputs is not None:
            seen = (gradient != 0).any(-1)
            self.inputs.add(index, x, seen if valid is None else seen & valid)

    def check_finite(self) -> None:
        """Refuse sums that overflowed.

        Raises:
            NumericalError: gradients or activations are not finite, or their squares are not.
        """
        grams = [] if self.inputs is None else [self.inputs.grams]
        fisher = [] if self.output_fisher is None else [self.output_fisher]
        # A sum of squares that is not finite shows in the sum of all.
        if not all(torch.isfinite(sums.sum()) for sums in grams + fisher):
            raise NumericalError(
                "activations or gradients of the calibration samples are not finite, or too large "
                "for float32 sums: check the weights, or use --dtype float32"
            )
