"""Gradients of masks, made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

LAYERS, HEADS, FILTERS, WIDTH = 3, 4, 10, 8


@pytest.fixture
def config() -> SimpleNamespace:
    return SimpleNamespace(
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FILTERS,
        hidden_size=HEADS * WIDTH,
    )


@pytest.fixture
def grads() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Of heads and of filters, [rows, layers, units]; with ``ties``, small whole numbers."""

    def make(seed: int, *, ties: bool = False, heads: float = 1.0):
        generator = torch.Generator().manual_seed(seed)
        found = []
        for units, scale in ((HEADS, heads), (FILTERS, 1.0)):
            values = scale * torch.randn(6, LAYERS, units, generator=generator)
            found.append((2 * values).round() if ties else values)
        return tuple(found)

    return make
