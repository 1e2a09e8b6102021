"""Trace: what a model did with the samples, recorded in passing so that tuning need not ask again.

Tuning imitates the dense model's sublayer outputs. The calibration pass computes all of them
anyway, so they are kept there, layer by layer from the first, as long as they fit into memory; a
later walk through the layers goes on from where the record ends. The arguments a model passes to
its blocks besides the hidden states (attention masks, rotary tables) depend on the batch alone:
they are recorded once and serve teacher and student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastprune.errors import DataError
from fastprune.structure import Site


@dataclass(frozen=True)
class BlockCall:
    """What a block is called with, apart from the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def same_as(self, other: BlockCall) -> bool:
        """Whether both hold the very same objects."""
        return (
            len(self.args) == len(other.args)
            and self.kwargs.keys() == other.kwargs.keys()
            and all(a is b for a, b in zip(self.args, other.args, strict=True))
            and all(value is other.kwargs[key] for key, value in self.kwargs.items())
        )


@dataclass(frozen=True)
class TraceBatch:
    """One recorded batch, and where its valid tokens lie among those of all batches.

    Attributes:
        valid: bool [samples, tokens] on the CPU, False = padding.
        rows: int64, the positions of the valid tokens in the flattened batch; None = all.
        start: number of valid tokens before this batch.
        calls: one per block.
    """

    valid: Tensor
    rows: Tensor | None
    start: int
    calls: tuple[BlockCall, ...]

    @property
    def span(self) -> slice:
        """Its tokens among those of all batches."""
        count = self.valid.numel() if self.rows is None else len(self.rows)
        return slice(self.start, self.start + count)

    def pack(self, values: Tensor) -> Tensor:
        """The valid tokens: [samples, tokens, width] or [samples * tokens, width] to rows."""
        flat = values.flatten(0, -2)
        return flat if self.rows is None else flat.index_select(0, self.rows)

    def unpack(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`pack`, with zeros for padding: [samples, tokens, width]."""
        if self.rows is not None:
            flat = rows.new_zeros(self.valid.numel(), rows.shape[-1])
            rows = flat.index_copy_(0, self.rows, rows)
        return rows.unflatten(0, tuple(self.valid.shape))


@dataclass(frozen=True)
class Trace:
    """A model's passage through its blocks. Tokens of all batches stand side by side, unpadded.

    Attributes:
        depth: leading blocks whose sublayer outputs are in the record.
        dtype: autocast type of the passes.
        batches: in the order of the passes.
        hidden: input of the first block, [tokens, hidden size].
        frontier: input of the first block that was not recorded; None past the last.
        outputs: by site, the sublayer's output, residual included and before any norm: [tokens,
            outputs] in :func:`target_dtype`.
    """

    depth: int
    dtype: torch.dtype
    batches: tuple[TraceBatch, ...]
    hidden: Tensor
    frontier: Tensor | None
    outputs: Mapping[str, Tensor]

    def check_fit(self, blocks: Sequence[str], sites: Sequence[Site]) -> None:
        """Refuse a record of another model.

        Raises:
            DataError: other layers, or sites that were not recorded.
        """
        recorded = [site.name for site in sites if site.block in blocks[: self.depth]]
        if any(len(batch.calls) != len(blocks) for batch in self.batches) or (
            not set(recorded) <= set(self.outputs)
        ):
            raise DataError(
                "this trace belongs to another model; record it again, with this model's sites"
            )


def target_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sublayer outputs are kept in; float16 could not hold every residual stream."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def depth_within(sites: Sequence[Site], tokens: int, dtype: torch.dtype, limit: int) -> int:
    """How many leading blocks' sublayer outputs fit into ``limit`` bytes.

    Args:
        sites: of the model, in forward order.
        tokens: of all samples.
        dtype: type the pass is computed in.
        limit: bytes.
    """
    depth, left = 0, limit
    for layer in sorted({site.layer for site in sites}):
        here = [site for site in sites if site.layer == layer]
        left -= sum(tokens * site.outputs * target_dtype(dtype).itemsize for site in here)
        if left < 0:
            break
        depth = layer + 1
    return depth


class Rows:
    """Rows that arrive a few at a time, in one piece of memory."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._memory = torch.empty(0, 0)
        self._count = 0

    def append(self, rows: Tensor) -> None:
        """Add rows [n, width]."""
        self.room(rows, rows.dtype).copy_(rows)

    def room(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Where the next rows are to be written, as many as ``like`` [n, width] has."""
        start, self._count = self._count, self._count + len(like)
        if self._count > len(self._memory):
            size = max(self._expected, 2 * start, self._count)
            larger = like.new_empty(size, like.shape[1], dtype=dtype)
            if start:
                larger[:start] = self._memory[:start]
            self._memory = larger
        return self._memory[start : self._count]

    def filled(self) -> Tensor:
        return self._memory[: self._count]
