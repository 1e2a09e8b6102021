"""Projections of heads that differ in width, where attention views all heads as equally wide.

Weights hold what is left of every head and nothing else, so no padding is stored, multiplied or
trained. Activations alone are padded, by zeros: these add nothing to logits, and become zeros in
the weighted sums of values, which are taken out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Ragged(nn.Linear):
    """A linear projection into or out of heads.

    The padding is a hook of its own, nearest to the product, so that others who hook the module
    see the very columns its weight has.

    Attributes:
        widths: columns of every head in the weight.
        width: columns of every head outside.
    """

    columns: torch.Tensor

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        widths: Sequence[int],
        width: int,
    ) -> None:
        """Take over ``weight`` [outputs, inputs] and ``bias`` [outputs]."""
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs, bias=bias is not None, device="meta")
        self.weight, self.widths, self.width = weight, tuple(widths), width
        if bias is not None:
            self.bias = bias
        self.register_buffer("columns", torch.empty(0), persistent=False)
        self.restore()

    def restore(self) -> None:
        """Compute the buffer anew: loaders leave those that are not in checkpoints undefined."""
        heads = [n * self.width + torch.arange(k) for n, k in enumerate(self.widths)]
        self.columns = torch.cat(heads).to(self.weight.device)

    @property
    def padded(self) -> int:
        """Columns of all heads outside."""
        return len(self.widths) * self.width

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, widths={self.widths}, width={self.width}"


class IntoHeads(Ragged):
    """A projection to queries, keys or values: [..., inputs] to [..., heads * width]."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_forward_hook(_pad)


class OutOfHeads(Ragged):
    """An output projection: [..., heads * width], or columns that are no longer padded, to
    [..., outputs]."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_forward_pre_hook(_unpad)


def _pad(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    padded = output.new_zeros((*output.shape[:-1], module.padded))
    return padded.index_copy(-1, module.columns, output)


def _unpad(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x = args[0]
    if x.shape[-1] != module.padded:
        return args
    return (x.index_select(-1, module.columns), *args[1:])
