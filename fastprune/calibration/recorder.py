"""Recording a trace: hooks that note, forward pass by forward pass, what a model does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.trace import BlockCall, Rows, Trace, TraceBatch, target_dtype
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, backward_attention, cache_off, device_of, to_device
from fastprune.structure import Site
from fastprune.structure.probe import SiteProbe, StopForward


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
        self._stack = ExitStack()
        for block in self._blocks:
            handle = block.register_forward_pre_hook(self._note, with_kwargs=True)
            self._stack.callback(handle.remove)
        for probe in self._probes.values():
            self._stack.enter_context(probe)
        # A cache would grow with every replay.
        self._stack.enter_context(cache_off(self._model))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

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
    recorder = Recorder(
        model, blocks, sites=sites, depth=depth, dtype=dtype, tokens=tokens, may_stop=True
    )
    with recorder, backward_attention(device, dtype):
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
