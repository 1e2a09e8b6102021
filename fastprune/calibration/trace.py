"""Trace: what a model did with the samples, recorded in passing so that tuning need not ask again.

Tuning imitates the dense model's sublayer outputs. The calibration pass computes all of them
anyway, so they are kept there, layer by layer from the first, as long as they fit into memory; a
later walk through the layers goes on from where the record ends. The arguments a model passes to
its blocks besides the hidden states (attention masks, rotary tables) depend on the batch alone:
they are recorded once and serve teacher and student.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.samples import model_inputs
from fastprune.device import autocast, device_of, to_device
from fastprune.errors import DataError
from fastprune.structure import Site
from fastprune.structure.probe import SiteProbe, StopForward


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


class Recorder:
    """Watches forward passes of a model, batch by batch, and makes a :class:`Trace` of them.

    A context manager. The model must be in evaluation mode.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        *,
        sites: Sequence[Site] = (),
        depth: int = 0,
        dtype: torch.dtype = torch.float32,
        tokens: int = 0,
        may_stop: bool = False,
    ) -> None:
        """Watch ``model``.

        Args:
            model: to watch.
            blocks: paths of its Transformer layers, in order.
            sites: its sites; the outputs of those in the first ``depth`` blocks are recorded.
            depth: leading blocks to record.
            dtype: autocast type of the passes.
            tokens: about how many will be seen; room is made for them at once.
            may_stop: leave a pass with :exc:`StopForward` once all has been seen.
        """
        self._model, self._depth, self._dtype = model, depth, dtype
        self._blocks = [model.get_submodule(path) for path in blocks]
        recorded = [site for site in sites if site.block in blocks[:depth]]
        self._probes = {site.name: SiteProbe(model, site) for site in recorded}
        self._outputs = {name: Rows(tokens) for name in self._probes}
        self._hidden, self._frontier = Rows(tokens), Rows(tokens)
        self._batches: list[TraceBatch] = []
        self._may_stop = may_stop
        self._stops = False
        self._entered: list[Tensor] = []
        self._calls: list[BlockCall] = []

    def __enter__(self) -> Recorder:
        self._handles = [
            block.register_forward_pre_hook(self._note, with_kwargs=True) for block in self._blocks
        ]
        for probe in self._probes.values():
            probe.__enter__()
        # A cache would grow with every replay.
        config = getattr(self._model, "config", None)
        self._use_cache = getattr(config, "use_cache", None)
        if self._use_cache is not None:
            config.use_cache = False  # type: ignore[union-attr]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for probe in self._probes.values():
            probe.__exit__(None)
        if self._use_cache is not None:
            self._model.config.use_cache = self._use_cache  # type: ignore[union-attr]

    def keep(self, mask: Tensor | None) -> None:
        """Add the pass that has just been run.

        Args:
            mask: its attention mask, [samples, tokens], on the CPU; None = no padding.
        """
        entered, calls = self._entered, self._calls
        self._entered, self._calls = [], []
        # Most models call every block with the same arguments. Once a whole pass has shown it,
        # the first block tells everything.
        if len(calls) == len(self._blocks):
            self._stops = self._may_stop and all(call.same_as(calls[0]) for call in calls)
        else:
            calls = calls[:1] * len(self._blocks)
        hidden = entered[0]
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        rows = (
            None
            if bool(valid.all())
            else valid.flatten().nonzero().flatten().to(hidden.device, non_blocking=True)
        )
        start = self._batches[-1].span.stop if self._batches else 0
        batch = TraceBatch(valid, rows, start, tuple(calls))
        self._batches.append(batch)
        self._hidden.append(batch.pack(hidden))
        if 0 < self._depth < len(entered):
            self._frontier.append(batch.pack(entered[self._depth]))
        kept = target_dtype(self._dtype)
        for name, probe in self._probes.items():
            output, residual = batch.pack(probe.output), batch.pack(probe.residual)
            torch.add(output, residual, out=self._outputs[name].room(residual, kept))

    def trace(self) -> Trace:
        """Everything kept so far."""
        hidden = self._hidden.filled()
        frontier = self._frontier.filled() if self._depth else hidden
        return Trace(
            depth=self._depth,
            dtype=self._dtype,
            batches=tuple(self._batches),
            hidden=hidden,
            frontier=frontier if self._depth < len(self._blocks) else None,
            outputs={name: rows.filled() for name, rows in self._outputs.items()},
        )

    def _note(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, call = _split_call(args, kwargs)
        self._entered.append(hidden.detach())
        self._calls.append(call)
        if self._stops and len(self._entered) > self._depth:
            raise StopForward


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


@torch.no_grad()
def record(
    model: nn.Module,
    blocks: Sequence[str],
    batches: Iterable[dict[str, Tensor]],
    dtype: torch.dtype,
    *,
    sites: Sequence[Site] = (),
    depth: int = 0,
    tokens: int = 0,
) -> Trace:
    """Record what a model does, running no further than it must.

    Args:
        model: in evaluation mode.
        blocks: paths of the Transformer layers, in order.
        batches: as :meth:`fastprune.data.Samples.batches` yields them.
        dtype: autocast type of the pass.
        sites: the model's; the outputs of those in the first ``depth`` blocks are recorded.
        depth: leading blocks to record.
        tokens: about how many there are.
    """
    device = device_of(model)
    with Recorder(
        model, blocks, sites=sites, depth=depth, dtype=dtype, tokens=tokens, may_stop=True
    ) as recorder:
        for batch in batches:
            try:
                with autocast(device, dtype):
                    model(**model_inputs(to_device(batch, device)))
            except StopForward:
                pass
            recorder.keep(batch.get("attention_mask"))
    return recorder.trace()


def _split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, BlockCall]:
    if args:
        return args[0], BlockCall(args[1:], kwargs)
    rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
    return kwargs["hidden_states"], BlockCall((), rest)
