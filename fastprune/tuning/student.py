"""The pruned model on its way through its blocks: one forward pass, halted at every site.

Attention is the only part of a block where tokens meet. It runs batch by batch; from the input of
its output projection on, tokens go on side by side, unpadded and whatever sample they are of, as
far as the next projection, and wait there until it is solved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor, nn

from fastprune.calibration.replay import known_input, run_block
from fastprune.calibration.trace import BlockCall, Trace
from fastprune.device import autocast, batch_tokens, device_of, held_bytes
from fastprune.structure import Site, find_sites
from fastprune.structure.declaration import anatomy
from fastprune.structure.probe import SiteProbe

# Tokens that wait together: enough for efficient sums, few enough to stay in the caches.
_SPAN = 4096


@dataclass(frozen=True)
class Halt:
    """Tokens that wait at a projection.

    Attributes:
        span: which of all tokens.
        x: input of the projection, [span, columns].
        residual: what its output is added to, [span, outputs].
    """

    span: slice
    x: Tensor
    residual: Tensor


class Student:
    """Walks a model through its blocks, first to last.

    For every block in turn: :meth:`enter`, then perhaps :meth:`narrow`, :meth:`halts` for some of
    its sites in forward order, and :meth:`leave`. A projection may change once its site's halts are
    over, and a site may shrink as long as it has not been reached: attention until its block is
    entered, an FFN until its halts begin.
    """

    def __init__(self, model: nn.Module, trace: Trace, buffers: Buffers | None = None) -> None:
        """Start before the first block.

        Args:
            model: in evaluation mode.
            trace: of a model with the same embeddings: what blocks are called with, and on what.
            buffers: shared with other students, of which none is entered before another is left.
        """
        self._model, self._trace = model, trace
        self._declaration = anatomy(model).declaration
        self._device = device_of(model)
        self._piece = batch_tokens(model, trace.dtype)
        self._hidden = trace.hidden.clone()
        self._known: dict[Site, Tensor] = {}
        self._residual = self._hidden
        self._buffers = Buffers() if buffers is None else buffers

    def enter(self, layer: int, block: str) -> None:
        """Take every token into a block, as far as the input of attention's output projection."""
        self._block = self._model.get_submodule(block)
        # Any batch's will do: past attention, blocks use nothing but the hidden states.
        self._call = self._trace.batches[0].calls[layer]
        self._known.clear()
        # Looked up now: sites may have shrunk since the walk began.
        here = (site for site in find_sites(self._model) if site.block == block)
        site = next((site for site in here if site.kind == "attention"), None)
        if site is None:
            return
        tokens = len(self._hidden)
        for batch in self._trace.batches:
            entered = batch.unpack(self._hidden[batch.span])
            with SiteProbe(self._model, site, stop=True) as probe:
                self._run(entered, batch.calls[layer])
            x = self._buffers.take("attention", tokens, site.columns, probe.input)
            residual = self._buffers.take("residual", tokens, site.outputs, probe.residual)
            x[batch.span] = batch.pack(probe.input)
            residual[batch.span] = batch.pack(probe.residual)
        self._known[site], self._residual = x, residual

    def narrow(self, rows: Tensor) -> None:
        """Follow some tokens alone, for the rest of the block that has been entered.

        Args:
            rows: int64, which of all tokens.
        """
        self._hidden = self._hidden.index_select(0, rows)
        self._residual = self._residual.index_select(0, rows)
        self._known = {site: x.index_select(0, rows) for site, x in self._known.items()}

    def halts(self, site: Site) -> Iterator[Halt]:
        """Take the tokens to a site of the block that has been entered, many at a time.

        What is yielded is overwritten by the next halt.
        """
        tokens = len(self._hidden)
        spans = _cut(slice(0, tokens), _SPAN)
        if site in self._known:
            for span in spans:
                yield Halt(span, self._known[site][span], self._residual[span])
            return
        fits = tokens * site.columns * self._trace.dtype.itemsize <= held_bytes(self._device)
        for span in spans:
            for piece in _cut(span, self._piece):
                with SiteProbe(self._model, site, stop=True) as probe:
                    self._go_on(piece)
                rows = tokens if fits else min(_SPAN, tokens)
                x = self._buffers.take("ffn", rows, site.columns, probe.input)
                residual = self._buffers.take("span", _SPAN, site.outputs, probe.residual)
                here = piece if fits else _shifted(piece, span.start)
                x[here] = probe.input.flatten(0, -2)
                residual[_shifted(piece, span.start)] = probe.residual.flatten(0, -2)
            count = span.stop - span.start
            yield Halt(span, x[span] if fits else x[:count], residual[:count])
        if fits:
            self._known[site] = x

    def leave(self) -> None:
        """Take every token through the rest of the block."""
        for piece in _cut(slice(0, len(self._hidden)), self._piece):
            output = self._go_on(piece)[0]
            if output.dtype != self._hidden.dtype:
                # Under autocast embeddings can end in a half type, and blocks in float32.
                self._hidden = self._hidden.to(output.dtype)
            self._hidden[piece] = output

    def _go_on(self, piece: slice) -> Tensor:
        """Run tokens through the block, from the last projection whose input is known."""
        with ExitStack() as stack:
            for site, x in self._known.items():
                if site.units:
                    given = known_input(self._model, self._declaration, site, x[piece][None])
                    stack.enter_context(given)
            return self._run(self._hidden[piece][None], self._call)

    def _run(self, hidden: Tensor, call: BlockCall) -> Tensor:
        with autocast(self._device, self._trace.dtype):
            return run_block(self._block, hidden, call)


def _cut(span: slice, step: int) -> list[slice]:
    starts = range(span.start, span.stop, step)
    return [slice(start, min(start + step, span.stop)) for start in starts]


def _shifted(span: slice, start: int) -> slice:
    return slice(span.start - start, span.stop - start)


class Buffers:
    """Memory that serves one layer after another: fresh pages would cost more than the copies."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """[rows, columns] of the type of ``like``; still holds what an equal call was given."""
        size = rows * columns
        flat = self._flat.get(name)
        if flat is None or len(flat) < size or flat.dtype != like.dtype:
            self._flat[name] = flat = like.new_empty(size)
        return flat[:size].view(rows, columns)
