"""The least-squares problem of one site, as sums over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastprune import ops


@dataclass
class LeastSquares:
    """How the error of a sublayer depends on its output projection.

    With ``x`` the inputs of the projection and ``r = target - output`` the error of what it
    produces now, all sums over the tokens seen (Kwon et al. 2022, section 4.3).

    Attributes:
        gram: float64 [columns, columns], sum of ``x x^T``.
        cross: float64 [columns, outputs], sum of ``x r^T``.
        x_sum: float64 [columns].
        error_sum: float64 [outputs], sum of ``r``.
        error: float64 scalar tensor, sum of ``r . r``.
        rows: number of tokens.
        metric: [outputs, outputs] or None: errors count as ``r^T metric r`` instead of ``r^T r``
            for solvers that cannot make all outputs right.
    """

    gram: Tensor
    cross: Tensor
    x_sum: Tensor
    error_sum: Tensor
    error: Tensor
    rows: int = 0
    metric: Tensor | None = None

    @classmethod
    def empty(
        cls, columns: int, outputs: int, device: torch.device, metric: Tensor | None = None
    ) -> LeastSquares:
        """No tokens seen yet."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            gram=zeros(columns, columns),
            cross=zeros(columns, outputs),
            x_sum=zeros(columns),
            error_sum=zeros(outputs),
            error=zeros(),
            metric=metric,
        )

    def add(self, x: Tensor, error: Tensor) -> None:
        """Add tokens: x [tokens, columns] and error [tokens, outputs]."""
        x, error = x.float(), error.float()
        ops.gram(x, out=self.gram)
        self.cross += x.T @ error
        self.x_sum += x.sum(0, dtype=torch.float64)
        self.error_sum += error.sum(0, dtype=torch.float64)
        self.error += error.square().sum(dtype=torch.float64)
        self.rows += len(x)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram and cross moments about the mean, which leave the bias free."""
        n = max(self.rows, 1)
        gram = self.gram - torch.outer(self.x_sum, self.x_sum / n)
        cross = self.cross - torch.outer(self.x_sum, self.error_sum / n)
        return gram, cross
