"""Multiply-accumulate operations of heads and filters (Kwon et al. 2022, section 3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def mac_per_head(seq_len: float, hidden_size: int, attention_head_size: int) -> float:
    """MACs of one head: its four projections, its scores and its weighted sum of values."""
    projections = 4 * seq_len * hidden_size * attention_head_size
    return projections + 2 * seq_len * seq_len * attention_head_size


def mac_per_neuron(seq_len: float, hidden_size: int) -> float:
    """MACs of one FFN filter: its row of the first projection and its column of the second."""
    return 2 * seq_len * hidden_size


def compute_mac(
    num_heads_per_layer: Iterable[int],
    num_neurons_per_layer: Iterable[int],
    seq_len: float,
    hidden_size: int,
    attention_head_size: int,
) -> float:
    """MACs of all layers for one sample of ``seq_len`` tokens; nothing but heads and filters."""
    per_head = mac_per_head(seq_len, hidden_size, attention_head_size)
    per_neuron = mac_per_neuron(seq_len, hidden_size)
    pairs = zip(num_heads_per_layer, num_neurons_per_layer, strict=True)
    return sum((heads * per_head + neurons * per_neuron for heads, neurons in pairs), 0.0)


def compute_mask_mac(
    head_mask: Tensor, neuron_mask: Tensor, seq_len: float, hidden_size: int
) -> tuple[Tensor, float]:
    """MACs of a masked model and of the whole one.

    Args:
        head_mask: ``[layers, heads]``, nonzero = kept.
        neuron_mask: ``[layers, filters]``, nonzero = kept.
        seq_len: tokens of a sample.
        hidden_size: of the model.

    Returns:
        ``(pruned, original)``; the first is a float64 scalar tensor on the CPU.
    """
    layers, heads = head_mask.shape
    size = hidden_size // heads
    original = compute_mac(
        [heads] * layers, [neuron_mask.shape[1]] * layers, seq_len, hidden_size, size
    )
    kept_heads, kept_neurons = ((mask != 0).sum(1).tolist() for mask in (head_mask, neuron_mask))
    pruned = compute_mac(kept_heads, kept_neurons, seq_len, hidden_size, size)
    return torch.tensor(pruned, dtype=torch.float64), original
