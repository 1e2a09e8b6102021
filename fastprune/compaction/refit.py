"""Making modules agree with parameters that have been shortened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fastprune.compaction.remains import axis
from fastprune.structure.declaration import Anatomy, Attention, Sublayer
from fastprune.structure.empty import BiasOnly, NoColumns, NoHeads, ZeroOutputs
from fastprune.structure.heads import HeadWidths, sharing_queries
from fastprune.structure.projection import Projection, as_projection
from fastprune.structure.ragged import IntoHeads, OutOfHeads, Ragged


def refit(model: nn.Module, found: Anatomy, widths: Sequence[HeadWidths]) -> None:
    """Make sizes and head counts agree with the parameters; replace what lost everything.

    Args:
        model: whose parameters have their new shapes.
        found: its anatomy.
        widths: of the heads in every layer, by now.
    """
    for layer, path in enumerate(found.blocks):
        block = model.get_submodule(path)
        part = found.declarations[layer]
        for sublayer in (part.attention, part.ffn):
            if sublayer is None:
                continue
            output = block.get_submodule(sublayer.output)
            if isinstance(output, BiasOnly):
                continue
            projection = as_projection(output, f"{path}.{sublayer.output}")
            if not projection.weight.shape[axis(projection, "inputs")]:
                _empty(block, layer, sublayer, projection)
                continue
            for name in (*sublayer.inputs, sublayer.output):
                refit_projection(block.get_submodule(name))
            if isinstance(sublayer, Attention):
                _refit_attention(block, sublayer, widths[layer])


def refit_projection(projection: nn.Module) -> None:
    """Make the sizes that a projection tells agree with its weight."""
    if isinstance(projection, Conv1D):
        projection.nx, projection.nf = projection.weight.shape
    elif isinstance(projection, nn.Linear):
        projection.out_features, projection.in_features = projection.weight.shape


def _refit_attention(block: nn.Module, attention: Attention, widths: HeadWidths) -> None:
    """Give attention as many heads as there are, each as wide as the widest.

    Logits are scaled as before: a module that holds the scale keeps it, and one that does not keeps
    its head width.
    """
    module: Any = block.get_submodule(attention.module)
    if hasattr(module, attention.scaling) and widths.widest != getattr(
        module, attention.head_width
    ):
        setattr(module, attention.head_width, widths.widest)
    width = int(getattr(module, attention.head_width))
    heads = len(widths.v) * sharing_queries(module)
    for name in attention.head_counts:
        setattr(module, name, heads)
    for name in attention.total_widths:
        setattr(module, name, heads * width)
    if attention.fused:
        return
    for path, each in zip(attention.inputs, (widths.qk, widths.qk, widths.v), strict=True):
        _refit_heads(block, path, IntoHeads, each, width)
    _refit_heads(block, attention.output, OutOfHeads, widths.v, width)


def _refit_heads(
    block: nn.Module, path: str, ragged: type[Ragged], widths: tuple[int, ...], width: int
) -> None:
    """Put the right kind of projection into the place of one whose parameters are right."""
    old: Any = block.get_submodule(path)
    if isinstance(old, Ragged) and (old.widths, old.width) == (widths, width):
        return
    new: nn.Module
    if not any(widths):
        new = ZeroOutputs(len(widths) * width, old.weight.detach())
    elif set(widths) != {width}:
        new = ragged(old.weight, old.bias, widths, width)
    elif isinstance(old, Ragged):
        # Equally wide again.
        new = nn.Linear(old.in_features, old.out_features, old.bias is not None, device="meta")
        new.weight, new.bias = old.weight, old.bias
    else:
        return
    block.set_submodule(path, new.train(old.training))


def _empty(block: nn.Module, layer: int, sublayer: Sublayer, output: Projection) -> None:
    """Leave only the output bias of a sublayer."""
    outputs = output.weight.shape[axis(output, "outputs")]
    bias_only = BiasOnly(outputs, output.bias, output.weight.detach())
    bias_only.train(output.training)
    if not isinstance(sublayer, Attention):
        for path in sublayer.inputs:
            block.set_submodule(path, NoColumns())
        block.set_submodule(sublayer.output, bias_only)
        return
    module = block.get_submodule(sublayer.module)
    if sublayer.output.startswith(f"{sublayer.module}."):
        stub = NoHeads(layer, sublayer.output.removeprefix(f"{sublayer.module}."), bias_only)
    else:
        stub = NoHeads(layer)
        block.set_submodule(sublayer.output, bias_only)
    block.set_submodule(sublayer.module, stub.train(module.training))
