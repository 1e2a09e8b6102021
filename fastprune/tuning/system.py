"""The least-squares problem of one site, as sums over tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune import ops
from fastprune.device import exact_products
from fastprune.distributed import Group


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

    def __init__(
        self, columns: int, outputs: int, device: torch.device, metric: Tensor | None = None
    ) -> None:
        """No tokens seen yet: x of ``columns``, r of ``outputs`` elements."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.gram = zeros(columns, columns)
        self.cross = zeros(columns, outputs)
        self.x_sum, self.error_sum, self.error = zeros(columns), zeros(outputs), zeros()
        self.rows = 0
        self.metric = metric

    def add(self, x: Tensor, error: Tensor) -> None:
        """Add some thousand tokens: x [tokens, columns] and error [tokens, outputs].

        Half types are taken as they are, and the errors are rounded to the type of ``x``: products
        of two of them are exact in float32.
        """
        self.rows += len(x)
        if x.dtype == torch.float64:
            x, error = x.float(), error.float()
        ones = x.new_ones(len(x), 1)
        if exact_products(x):
            ops.gram(x, out=self.gram)
            self.cross += (error.T @ x).T  # faster than x.T @ error with many columns
            self.x_sum += (ones.T @ x)[0]
            self.error_sum += (ones.T @ error)[0]
            self.error += torch.linalg.vector_norm(error).double().square()
        else:
            # A constant input collects the sums.
            moments = ops.gram(torch.cat([x, error.to(x.dtype), ones], dim=1))
            columns = x.shape[1]
            self.gram += moments[:columns, :columns]
            self.cross += moments[:columns, columns:-1]
            self.x_sum += moments[:columns, -1]
            self.error_sum += moments[columns:-1, -1]
            self.error += moments.diagonal()[columns:-1].sum()

    def subtract(self, weight: Tensor) -> None:
        """Turn what was wanted of a projection into the error that it leaves.

        Tokens were added with what they should become in place of errors; taken away is what a
        projection with this weight makes of them: ``sum x (t - W x)^T = sum x t^T - gram W^T``.

        Args:
            weight: [outputs, columns].
        """
        w = weight.double()
        produced = self.gram @ w.T
        self.error += (w.T * (produced - 2 * self.cross)).sum()
        self.error.clamp_(min=0)  # what is left of digits that cancel
        self.cross -= produced
        self.error_sum -= w @ self.x_sum

    def sum_over(self, group: Group) -> None:
        """Add up the tokens that all processes of a group have seen, in place."""
        rows = torch.tensor(self.rows)
        group.sum_(rows, self.gram, self.cross, self.x_sum, self.error_sum, self.error)
        self.rows = int(rows)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram and cross moments about the mean, which leave the bias free."""
        n = max(self.rows, 1)
        gram = self.gram - torch.outer(self.x_sum, self.x_sum / n)
        cross = self.cross - torch.outer(self.x_sum, self.error_sum / n)
        return gram, cross
