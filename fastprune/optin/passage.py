"""The way of variants of a model, side by side, through its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastprune.calibration.recorder import record
from fastprune.calibration.replay import known_output, run_block
from fastprune.data import Samples
from fastprune.device import autocast, device_of, size_in_bytes, variant_bytes
from fastprune.optin.drawing import alike
from fastprune.optin.ending import Ending
from fastprune.optin.stacking import stacked_call
from fastprune.structure import Site
from fastprune.structure.declaration import anatomy
from fastprune.structure.probe import SiteProbe

Hidden = list[Tensor]
"""By batch, [variants * samples, tokens, hidden size]: variant after variant."""
Known = Mapping[Site, Sequence[Tensor]]
"""Outputs of projections that are not computed; by batch, [variants, samples * tokens, outputs]."""


@dataclass(frozen=True)
class Work:
    """What a projection did with a batch: inputs [samples * tokens, columns], outputs likewise."""

    x: Tensor
    y: Tensor


class Passage:
    """Takes variants through one block after the other, on the samples it was made for.

    Attributes:
        blocks: how many there are.
        start: what enters the first one, of one variant.
        ending: what follows the last one.
        most: variants that fit into a pass.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        samples: Samples,
        *,
        tokens: int,
        dtype: torch.dtype,
    ) -> None:
        """Run the samples through what precedes the blocks.

        Args:
            model: in evaluation mode, keeping no keys and values.
            sites: of the model.
            samples: labels are not used.
            tokens: most tokens of a pass, unless a single sample has more.
            dtype: autocast type of all passes.
        """
        self._model, self._dtype, self._device = model, dtype, device_of(model)
        found = anatomy(model)
        self._declaration, self._paths = found.declaration, found.blocks
        self._sites = sites
        batches = [samples.collate(group) for group in alike(samples)]
        in_tuple: list[bool] = []
        last = model.get_submodule(found.blocks[-1])
        hook = last.register_forward_hook(lambda *seen: in_tuple.append(isinstance(seen[2], tuple)))
        try:
            trace = record(model, found.blocks, batches, dtype)
        finally:
            hook.remove()
        self._batches = trace.batches
        self._rows = len(trace.hidden)
        self.blocks = len(found.blocks)
        self.start: Hidden = [batch.unpack(trace.hidden[batch.span]) for batch in trace.batches]
        self.ending = Ending(
            model, found.blocks, batches, task=samples.task, dtype=dtype, in_tuple=in_tuple[0]
        )
        # Batches pass one after the other, but what leaves a block is kept of them all.
        of_variant = size_in_bytes(self.start)
        self.most = max(
            1,
            min(
                tokens // max(batch.valid.numel() for batch in trace.batches),
                variant_bytes(self._device) // of_variant,
            ),
        )

    def go(self, layer: int, hidden: Hidden, known: Known | None = None) -> Hidden:
        """Run a block.

        Args:
            layer: its number.
            hidden: what enters it.
            known: sites of the block whose outputs are not computed, but these.

        Returns:
            what leaves it.
        """
        return [
            self._run(layer, number, entered, known or {}) for number, entered in enumerate(hidden)
        ]

    def go_and_look(
        self, layer: int, hidden: Hidden, known: Known | None = None
    ) -> tuple[Hidden, Tensor | None]:
        """Run a block, and see its features: the output of its FFN's projection.

        Args and first result are those of :meth:`go`; the second is [variants, rows, outputs] of
        all valid tokens, and None where the FFN has lost all its units.
        """
        site = self._site(layer, "ffn")
        if site is None:
            return self.go(layer, hidden, known), None
        left: Hidden = []
        features: Tensor | None = None
        for number, (batch, entered) in enumerate(zip(self._batches, hidden, strict=True)):
            with SiteProbe(self._model, site) as probe:
                left.append(self._run(layer, number, entered, known or {}))
            flat = probe.output.reshape(-1, batch.valid.numel(), site.outputs)
            if features is None:
                # A projection that a unit was taken from is known in full precision.
                kept = torch.promote_types(flat.dtype, torch.float32)
                features = flat.new_empty(len(flat), self._rows, site.outputs, dtype=kept)
            features[:, batch.span] = flat if batch.rows is None else flat[:, batch.rows]
        return left, features

    def work(self, layer: int, hidden: Hidden) -> dict[Site, list[Work]]:
        """What the projections of a block do with what enters it, of one variant; by batch."""
        sites = [site for site in self._sites if site.layer == layer]
        seen: dict[Site, list[Work]] = {site: [] for site in sites}
        for number, entered in enumerate(hidden):
            with ExitStack() as stack:
                probes = [stack.enter_context(SiteProbe(self._model, site)) for site in sites]
                self._run(layer, number, entered, {})
            for site, probe in zip(sites, probes, strict=True):
                x, y = probe.input.flatten(0, -2), probe.output.flatten(0, -2)
                seen[site].append(Work(x, y))
        return seen

    def _run(self, layer: int, number: int, hidden: Tensor, known: Known) -> Tensor:
        batch = self._batches[number]
        samples = len(batch.valid)
        call = stacked_call(batch.calls[layer], samples, len(hidden) // samples)
        with ExitStack() as stack:
            for site, outputs in known.items():
                given = known_output(self._model, self._declaration, site, outputs[number])
                stack.enter_context(given)
            stack.enter_context(autocast(self._device, self._dtype))
            return run_block(self._model.get_submodule(self._paths[layer]), hidden, call)

    def _site(self, layer: int, kind: str) -> Site | None:
        here = (site for site in self._sites if site.layer == layer and site.kind == kind)
        return next(here, None)
