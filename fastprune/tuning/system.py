"""The least-squares problem of one site, as sums over tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune import ops

# Tokens summed up by one call: enough to spread the cost of updating the sums.
_CHUNK = 4096
# Rows start on multiples of this many elements, so that kernels can read 16 bytes at once.
_ALIGNMENT = 8


class LeastSquares:
    """How the error of a sublayer depends on its output projection.

    With ``x`` the inputs of the projection and ``r = target - output`` the error of what it
    produces now, every sum that a solver needs is part of the Gram matrix of ``[x, r, 1]`` (Kwon et
    al. 2022, section 4.3). Tokens are gathered into chunks; one call sums up a chunk.

    Attributes:
        rows: number of tokens.
        metric: [outputs, outputs] or None: errors count as ``r^T metric r`` instead of ``r^T r``
            for solvers that cannot make all outputs right.
    """

    def __init__(
        self,
        columns: int,
        outputs: int,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        metric: Tensor | None = None,
    ) -> None:
        """No tokens seen yet.

        Args:
            columns: width of ``x``.
            outputs: width of ``r``.
            device: where tokens come from.
            dtype: to which tokens are rounded; products and sums are float32 or better.
            metric: see the class.
        """
        width = columns + outputs + 1
        stride = -(-width // _ALIGNMENT) * _ALIGNMENT
        self.rows = 0
        self.metric = metric
        self._columns = columns
        self._moments = torch.zeros(width, width, dtype=torch.float64, device=device)
        self._chunk = torch.ones(_CHUNK, stride, dtype=dtype, device=device)[:, :width]
        self._filled = 0

    def add(self, x: Tensor, error: Tensor) -> None:
        """Add tokens: x [tokens, columns] and error [tokens, outputs]."""
        self.rows += len(x)
        for part, wrong in zip(*(self._pieces(values) for values in (x, error)), strict=True):
            rows = self._chunk[self._filled : self._filled + len(part)]
            rows[:, : self._columns] = part
            rows[:, self._columns : -1] = wrong
            self._filled += len(part)
            if self._filled == _CHUNK:
                self._fold()

    @property
    def gram(self) -> Tensor:
        """float64 [columns, columns], sum of ``x x^T``."""
        return self._sums()[: self._columns, : self._columns]

    @property
    def cross(self) -> Tensor:
        """float64 [columns, outputs], sum of ``x r^T``."""
        return self._sums()[: self._columns, self._columns : -1]

    @property
    def x_sum(self) -> Tensor:
        """float64 [columns], sum of ``x``."""
        return self._sums()[: self._columns, -1]

    @property
    def error_sum(self) -> Tensor:
        """float64 [outputs], sum of ``r``."""
        return self._sums()[self._columns : -1, -1]

    @property
    def error(self) -> Tensor:
        """float64 scalar, sum of ``r . r``."""
        return self._sums().diagonal()[self._columns : -1].sum()

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram and cross moments about the mean, which leave the bias free."""
        n = max(self.rows, 1)
        gram = self.gram - torch.outer(self.x_sum, self.x_sum / n)
        cross = self.cross - torch.outer(self.x_sum, self.error_sum / n)
        return gram, cross

    def _pieces(self, values: Tensor) -> list[Tensor]:
        """Cut where chunks are full."""
        room = _CHUNK - self._filled
        return [values[:room], *values[room:].split(_CHUNK)] if len(values) > room else [values]

    def _sums(self) -> Tensor:
        self._fold()
        return self._moments

    def _fold(self) -> None:
        if self._filled:
            ops.gram(self._chunk[: self._filled], out=self._moments)
            self._filled = 0
