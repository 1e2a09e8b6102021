"""What the student is to imitate, layer by layer: from the record, then by running on from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from fastprune.calibration.trace import Trace
from fastprune.device import autocast, device_of
from fastprune.structure import Site
from fastprune.structure.probe import SiteProbe
from fastprune.tuning.replay import run_block

Targets = dict[str, list[Tensor]]
"""Per site, the sublayer's outputs: one [samples, tokens, outputs] per batch."""


class Teacher:
    """Walks a model through its layers, first to last."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self._model, self._trace = model, trace
        self._device = device_of(model)
        self._hidden = [batch.frontier for batch in trace.batches]

    def targets(self, layer: int, block: str, sites: Sequence[Site]) -> Targets:
        """What the sublayers of ``sites``, all in ``block``, add up to: output plus residual."""
        if layer < self._trace.depth:
            batches = self._trace.batches
            return {site.name: [batch.outputs[site.name] for batch in batches] for site in sites}
        targets: Targets = {site.name: [] for site in sites}
        module = self._model.get_submodule(block)
        with ExitStack() as stack:
            stack.enter_context(autocast(self._device, self._trace.dtype))
            probes = [stack.enter_context(SiteProbe(self._model, site)) for site in sites]
            for i, batch in enumerate(self._trace.batches):
                hidden = self._hidden[i]
                assert hidden is not None
                self._hidden[i] = run_block(module, hidden, batch.calls[layer])
                for site, probe in zip(sites, probes, strict=True):
                    targets[site.name].append(probe.sublayer_output())
        return targets
