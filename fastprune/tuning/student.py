"""The pruned model on its way through the layers: one forward pass, halted at every site.

A pass goes as far as the input of a projection, waits there until the projection is solved, and
goes on. What it has reached is kept as long as it fits into memory; beyond that, the way is gone
again from the start of the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from torch import Tensor, nn

from fastprune.calibration.trace import Trace
from fastprune.device import autocast, device_of, held_bytes
from fastprune.structure import Declaration, Site
from fastprune.structure.declaration import anatomy
from fastprune.structure.probe import SiteProbe
from fastprune.tuning.replay import known_input, run_block


class Student:
    """Walks a model through its blocks, first to last, batch by batch."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self._model, self._trace = model, trace
        self._declaration: Declaration = anatomy(model).declaration
        self._device = device_of(model)
        self._hidden = [batch.hidden for batch in trace.batches]
        self._passed: list[Site] = []
        self._held = _Held(held_bytes(self._device))

    def halt_at(self, site: Site) -> Iterator[tuple[Tensor, Tensor]]:
        """Run every batch up to ``site``, which comes after those of its block halted at before.

        Yields:
            per batch, the input of the projection and the residual stream its output is added to:
            [samples, tokens, columns] and [samples, tokens, outputs].
        """
        for i in range(len(self._hidden)):
            with self._on_the_way(i, site.block), SiteProbe(self._model, site, stop=True) as probe:
                self._run(i, site.layer, site.block)
            self._held.put((i, site.name), probe.input)
            yield probe.input, probe.residual
        self._passed.append(site)

    def leave(self, layer: int, block: str) -> None:
        """Run every batch through the rest of a block."""
        for i in range(len(self._hidden)):
            with self._on_the_way(i, block):
                self._hidden[i] = self._run(i, layer, block)
        self._passed.clear()
        self._held.clear()

    def _run(self, i: int, layer: int, block: str) -> Tensor:
        call = self._trace.batches[i].calls[layer]
        return run_block(self._model.get_submodule(block), self._hidden[i], call)

    def _on_the_way(self, i: int, block: str) -> ExitStack:
        """Skip what batch ``i`` has behind it in this block."""
        stack = ExitStack()
        stack.enter_context(autocast(self._device, self._trace.dtype))
        for site in self._passed:
            x = self._held.get((i, site.name))
            if x is not None and site.units:
                stack.enter_context(known_input(self._model, self._declaration, site, x))
        return stack


class _Held:
    """Keeps tensors up to a number of bytes; what does not fit is not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._tensors: dict[tuple[int, str], Tensor] = {}

    def put(self, key: tuple[int, str], tensor: Tensor) -> None:
        if tensor.nbytes <= self._left:
            self._left -= tensor.nbytes
            self._tensors[key] = tensor

    def get(self, key: tuple[int, str]) -> Tensor | None:
        return self._tensors.get(key)

    def clear(self) -> None:
        self._tensors.clear()
        self._left = self._limit
