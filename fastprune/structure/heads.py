"""Heads of an attention sublayer, which may differ in width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fastprune.structure.declaration import Anatomy, Attention, anatomy, find_module
from fastprune.structure.empty import BiasOnly, NoHeads, ZeroOutputs
from fastprune.structure.projection import as_projection, weight_view
from fastprune.structure.ragged import Ragged


@dataclass(frozen=True)
class HeadWidths:
    """Dimensions left in every head, or key/value group under grouped-query attention.

    Attributes:
        qk: of queries and keys, whose products are summed up to logits.
        v: of values, and so columns of the output projection.
    """

    qk: tuple[int, ...]
    v: tuple[int, ...]

    @property
    def even(self) -> bool:
        """Whether all heads are alike."""
        return len(set(zip(self.qk, self.v, strict=True))) <= 1

    @property
    def widest(self) -> int:
        """The largest width of any head."""
        return max((*self.qk, *self.v))


def head_widths(model: nn.Module, block: str, attention: Attention) -> HeadWidths:
    """The widths of the heads of one Transformer layer, none where it has lost them all."""
    module = model.get_submodule(f"{block}.{attention.module}")
    name = f"{block}.{attention.output}"
    output = model.get_submodule(name)
    if isinstance(module, NoHeads) or isinstance(output, BiasOnly):
        return HeadWidths((), ())
    width = int(getattr(module, attention.head_width))
    if isinstance(output, Ragged):
        v = output.widths
    else:
        columns = weight_view(as_projection(output, name)).shape[1]
        v = (width,) * (columns // (width * sharing_queries(module)))
    return HeadWidths(_query_key_widths(model, block, attention, width, len(v)), v)


def all_head_widths(model: nn.Module, found: Anatomy | None = None) -> list[HeadWidths]:
    """:func:`head_widths` of every layer."""
    found = anatomy(model) if found is None else found
    return [
        HeadWidths((), ()) if part.attention is None else head_widths(model, block, part.attention)
        for block, part in zip(found.blocks, found.declarations, strict=True)
    ]


def sharing_queries(attention: Any) -> int:
    """Query heads that share one head of keys and values."""
    return int(getattr(attention, "num_key_value_groups", 1))


def _query_key_widths(
    model: nn.Module, block: str, attention: Attention, width: int, heads: int
) -> tuple[int, ...]:
    if not attention.fused:
        key = find_module(model.get_submodule(block), attention.inputs[1])
        if isinstance(key, Ragged):
            return key.widths
        if isinstance(key, ZeroOutputs):
            return (0,) * heads
    return (width,) * heads
