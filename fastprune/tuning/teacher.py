"""What the student is to imitate, layer by layer: from the record, then by running on from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from fastprune.calibration.replay import run_block
from fastprune.calibration.trace import Rows, Trace, target_dtype
from fastprune.device import autocast, device_of
from fastprune.structure import Site
from fastprune.structure.probe import SiteProbe


class Teacher:
    """Walks a model through its blocks: :meth:`targets` is asked for every layer in turn."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self._model, self._trace = model, trace
        self._hidden = trace.frontier

    def targets(self, layer: int, block: str, sites: Sequence[Site]) -> dict[str, Tensor]:
        """What the sublayers of ``sites``, all in ``block``, add up to, the residual included.

        Returns:
            by site, [tokens, outputs], the tokens of the trace.
        """
        if layer < self._trace.depth:
            return {site.name: self._trace.outputs[site.name] for site in sites}
        assert self._hidden is not None
        tokens = len(self._hidden)
        found = {site.name: Rows(tokens) for site in sites}
        left = Rows(tokens)
        # Rounded as in a record: how much memory there is must not change results.
        dtype = target_dtype(self._trace.dtype)
        module = self._model.get_submodule(block)
        with ExitStack() as stack:
            stack.enter_context(autocast(device_of(self._model), self._trace.dtype))
            probes = [stack.enter_context(SiteProbe(self._model, site)) for site in sites]
            for batch in self._trace.batches:
                entered = batch.unpack(self._hidden[batch.span])
                left.append(batch.pack(run_block(module, entered, batch.calls[layer])))
                for site, probe in zip(sites, probes, strict=True):
                    found[site.name].append(batch.pack(probe.sublayer_output()).to(dtype))
        self._hidden = left.filled()
        return {name: rows.filled() for name, rows in found.items()}
