"""The loss of masked units as the Fisher information at the dense model has it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune.errors import NumericalError

_ITERATIONS = 30
"""Of the power method. Its estimate of the largest of n eigenvalues falls short by 0.871 ln(n) / 29
on average (Kuczynski and Wozniakowski 1992, theorem 3.1): by less than half for 10 million units,
and the steps of a path are stable up to twice their length (:mod:`fastprune.spp.path`)."""


class FisherLoss:
    """``L(m) = (1 - m)^T F (1 - m) / 2`` with ``F = G^T G / N``; F is never formed.

    What masks cost to second order, where the gradients ``G`` are of a loss whose second moment is
    its curvature (:mod:`fastprune.calibration.objective`).

    Attributes:
        curvature: the largest eigenvalue of F, by the power method.
    """

    def __init__(self, rows: Tensor) -> None:
        """Look at gradients once.

        Args:
            rows: G, float32 or float64 [N, units], gradients of the masks at 1, one row a sample.

        Raises:
            NumericalError: gradients that are not finite, or all zero.
        """
        self._rows = rows
        self._totals = rows.sum(1)
        self.curvature = self._largest_eigenvalue()
        if not 0 < self.curvature < float("inf"):
            raise NumericalError(
                "the gradients of the masks are all zero or not finite, so no path starts there: "
                "check the calibration samples and the weights, or use --dtype float32"
            )

    def gradient(self, masks: Tensor) -> Tensor:
        """``-G^T (G (1 - m)) / N`` for every row of masks [paths, units], in the same shape."""
        # G 1 - G m spares a pass over the masks.
        removed = torch.addmm(self._totals, masks, self._rows.T, alpha=-1)
        return (removed @ self._rows).mul_(-1 / len(self._rows))

    def at_rest(self, nu: Tensor) -> Tensor:
        """Where masks come to rest while their gates stay closed: ``(F + 1 / nu)^-1 F 1``.

        Args:
            nu: [paths], as in :func:`fastprune.spp.follow_paths`.

        Returns:
            [paths, units], in the type of the gradients.
        """
        # By the identity of Woodbury a system of N unknowns, not of all units.
        products = (self._rows @ self._rows.T).double()
        shares = []
        for value in nu.tolist():
            ridge = torch.eye(len(products)).to(products) * (len(products) / value)
            factor = torch.linalg.cholesky(products + ridge)
            shares.append(torch.cholesky_solve(self._totals.double()[:, None], factor).squeeze(1))
        return torch.stack(shares).to(self._rows) @ self._rows

    def __call__(self, masks: Tensor) -> Tensor:
        """The loss of every row of masks [paths, units]: [paths]."""
        return ((1 - masks) @ self._rows.T).square().mean(1) / 2

    def _largest_eigenvalue(self) -> float:
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(self._rows.shape[1], generator=generator).to(self._rows)
        size = vector.norm()
        for _ in range(_ITERATIONS):
            vector = self._rows.T @ (self._rows @ (vector / size))
            size = vector.norm()
        return float(size) / len(self._rows)
