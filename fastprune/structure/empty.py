"""What is left of a sublayer that lost all its units: its output bias, and nothing else.

Projections with zero rows or columns cannot stay: reshaping to ``(..., -1, head_width)`` is
ambiguous for empty tensors, and empty parameters look like shared memory to checkpoint writers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class NoColumns(nn.Module):
    """Stands in for a projection that lost all its outputs: [..., k] to [..., 0]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_empty((*x.shape[:-1], 0))


class ZeroOutputs(nn.Module):
    """Stands in for a projection to queries or keys that lost all dimensions: zeros.

    Logits are zero then, and attention is uniform over the tokens it may see. Its ``weight`` [1, 1]
    is unused, and in checkpoints for the same reason as that of :class:`BiasOnly`.
    """

    weight: torch.Tensor

    def __init__(self, outputs: int, like: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("weight", like.new_zeros(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros((*x.shape[:-1], self.outputs))

    def extra_repr(self) -> str:
        return f"outputs={self.outputs}"


class BiasOnly(nn.Module):
    """Stands in for a projection that lost all its inputs: [..., 0] to [..., outputs].

    Its ``weight`` [outputs, 1] is unused zeros. It goes into checkpoints so that a loader which
    knows nothing of pruning stops at a wrong shape; a missing key it would fill at random.
    """

    bias: nn.Parameter | None
    weight: torch.Tensor

    def __init__(self, outputs: int, bias: nn.Parameter | None, like: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("weight", like.new_zeros(outputs, 1))
        self.register_parameter("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zeros = x.new_zeros((*x.shape[:-1], self.outputs))
        return zeros if self.bias is None else zeros + self.bias

    def extra_repr(self) -> str:
        return f"outputs={self.outputs}, bias={self.bias is not None}"


class NoHeads(nn.Module):
    """Stands in for an attention module that lost all its heads.

    Takes whatever the original took, hidden states first. Its result is what the original hands
    on: nothing (width 0), or the bias of the output projection where that lives inside it.
    A layer without heads has no attention map to return.
    """

    def __init__(self, layer: int, output: str = "", projection: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.output = output
        if projection is not None:
            self.add_module(output, projection)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        x = args[0] if args else next(iter(kwargs.values()))
        # "cache" from transformers 5.24 on.
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        _count_tokens(cache, x, self.layer, kwargs.get("cache_position"))
        nothing = x.new_empty((*x.shape[:-1], 0))
        return (self.get_submodule(self.output)(nothing) if self.output else nothing), None


def _count_tokens(cache: Any, x: torch.Tensor, layer: int, position: torch.Tensor | None) -> None:
    """Record how many tokens passed: generation reads its position off a layer's cache.

    One key of width 1 stands for each token, because a cache without elements counts as unused.
    """
    if cache is None:
        return
    cache = getattr(cache, "self_attention_cache", cache)
    tokens = x.new_zeros((x.shape[0], 1, x.shape[1], 1))
    arguments = {} if position is None else {"cache_kwargs": {"cache_position": position}}
    cache.update(tokens, tokens, layer, **arguments)
