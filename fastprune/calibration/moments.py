"""Second moments at the output projections: of their inputs, and of the gradients behind them.

Together they are a Kronecker-factored Fisher information of the projections' weights (Martens and
Grosse 2015, K-FAC): with ``y = W x``, changing ``W`` by ``D`` costs about ``tr(D H D^T F) / 2n``,
where ``H`` sums ``x x^T`` and ``F`` sums ``g g^T`` over ``n`` tokens, ``g`` being the gradient of a
sample's loss with respect to ``y``.

That takes ``x`` and ``g`` for independent, which they are not: a classifier that reads one token
hardly depends on the others. ``H`` therefore counts each token by the norm of its gradient. Its
square would be exact for a metric alike in all directions, but leaves too few tokens to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune import ops
from fastprune.errors import DataError, NumericalError
from fastprune.structure.site import Site


@dataclass(frozen=True)
class InputMoments:
    """Moments of the inputs of the sites' output projections, tokens weighed. Additive.

    Attributes:
        columns: per site, the width of its input.
        grams: float32 [sum(columns**2)], the flat sums of ``w x x^T``.
        sums: float64 [sum(columns)], the sums of ``w x``.
        weights: float64 [sites], the sums of ``w``, the norm of a token's gradient.
        tokens: int64 [sites], how many tokens have a gradient.
    """

    columns: tuple[int, ...]
    grams: Tensor
    sums: Tensor
    weights: Tensor
    tokens: Tensor

    @classmethod
    def zeros(cls, sites: Sequence[Site], device: torch.device) -> InputMoments:
        """No tokens seen yet."""
        columns = tuple(site.columns for site in sites)
        return cls(
            columns,
            torch.zeros(sum(n * n for n in columns), device=device),
            torch.zeros(sum(columns), dtype=torch.float64, device=device),
            torch.zeros(len(columns), dtype=torch.float64, device=device),
            torch.zeros(len(columns), dtype=torch.int64, device=device),
        )

    def to(self, device: torch.device) -> InputMoments:
        """The same sums on another device."""
        names = ("grams", "sums", "weights", "tokens")
        return InputMoments(self.columns, *(getattr(self, name).to(device) for name in names))

    def about_zero(self, index: int) -> Tensor:
        """``H`` of site ``index`` with weights of mean one: float64 [columns, columns]."""
        return self._gram(index).double().mul_(self._scale(index))

    def about_mean(self, index: int) -> Tensor:
        """The same about the mean input, which leaves a bias free."""
        mean = self.mean(index)
        return self.about_zero(index).addr_(mean * self.tokens[index], mean, alpha=-1)

    def mean(self, index: int) -> Tensor:
        """The weighted mean input of site ``index``: float64 [columns]."""
        return self._sum(index) * self._scale(index) / self.tokens[index].clamp(min=1)

    def squares(self, index: int) -> Tensor:
        """The diagonal of :meth:`about_zero`: float64 [columns]."""
        return self._gram(index).diagonal().double() * self._scale(index)

    def add(self, index: int, x: Tensor, gradient: Tensor, valid: Tensor | None) -> None:
        """Add tokens in place.

        Args:
            index: which site's.
            x: [samples, tokens, columns], the inputs of its projection.
            gradient: [samples, tokens, outputs], of the summed loss at its output.
            valid: bool [samples, tokens], a real token; None = all are.
        """
        weights = torch.linalg.vector_norm(gradient, dim=-1, dtype=torch.float32)
        if valid is not None:
            weights = weights.where(valid, 0)
        seen = weights != 0  # NaN included, so that it shows
        roots = weights.sqrt()[..., None]
        # What padding holds, even NaN, does not matter.
        rows = (x * roots.to(x.dtype)).where(seen[..., None], 0)
        ops.gram(rows, valid=seen, out=self._gram(index))
        self._sum(index).add_(roots.flatten() @ rows.flatten(0, 1).float())
        self.weights[index] += weights.sum()
        self.tokens[index] += seen.sum()

    def _gram(self, index: int) -> Tensor:
        n = self.columns[index]
        start = sum(m * m for m in self.columns[:index])
        return self.grams[start : start + n * n].view(n, n)

    def _sum(self, index: int) -> Tensor:
        start = sum(self.columns[:index])
        return self.sums[start : start + self.columns[index]]

    def _scale(self, index: int) -> Tensor:
        weight = self.weights[index]
        return self.tokens[index] / weight.where(weight > 0, 1)

    def __add__(self, other: InputMoments) -> InputMoments:
        """Sums over disjoint tokens of the same sites add up."""
        return InputMoments(
            self.columns,
            self.grams + other.grams.to(self.grams.device),
            self.sums + other.sums.to(self.sums.device),
            self.weights + other.weights.to(self.weights.device),
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
            inputs: whether to sum ``w x x^T`` and ``w x``.

        Raises:
            DataError: moments of outputs that differ in width.
        """
        outputs = sites[0].outputs
        if output_fisher and any(site.outputs != outputs for site in sites):
            raise DataError(
                "layers of this model differ in width, and moments of their outputs are kept for "
                "one width alone; collect with output_fisher=False"
            )
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
            self.inputs.add(index, x, gradient, valid)

    def check_finite(self) -> None:
        """Refuse sums that overflowed.

        Raises:
            NumericalError: gradients or activations are not finite, or their squares are not.
        """
        inputs = self.inputs
        grams = [] if inputs is None else [inputs.grams, inputs.sums, inputs.weights]
        fisher = [] if self.output_fisher is None else [self.output_fisher]
        # A sum of squares that is not finite shows in the sum of all.
        if not all(torch.isfinite(sums.sum()) for sums in grams + fisher):
            raise NumericalError(
                "activations or gradients of the calibration samples are not finite, or too large "
                "for float32 sums: check the weights, or use --dtype float32"
            )
