"""Scoring where blocks do not follow each other at one width: a pass of the whole model per unit.

Stages of Swin take other numbers of tokens at other widths, and Mask2Former has three kinds of
layers beside each other. What precedes a unit is computed again for each, as in the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration.divergence import Divergence, Prediction
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, device_of, to_device
from fastprune.optin.drawing import alike
from fastprune.optin.ending import DISTILLATION
from fastprune.optin.losses import Losses
from fastprune.structure import Site, masked
from fastprune.structure.probe import SiteProbe


class WholeTrial:
    """Takes units away from a model, one pass after the other.

    Attributes:
        most: units of a call; a pass takes one of them.
    """

    most = 16

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], samples: Samples, *, dtype: torch.dtype
    ) -> None:
        """Run the dense model.

        Args:
            model: in evaluation mode, keeping no keys and values.
            sites: of the model.
            samples: that it is tried on; labels are not used.
            dtype: autocast type.
        """
        self._model, self._sites, self._dtype = model, sites, dtype
        self._device = device_of(model)
        self._batches = [
            to_device(samples.collate(group), self._device) for group in alike(samples)
        ]
        self._divergence = Divergence(samples.task, 0, temperature=1.0)
        self._ffn = [site for site in sites if site.kind == "ffn"]
        self._features, self._predictions = self._run(self._ffn)

    def losses(self, site: Site, units: slice) -> Losses:
        """Of some units of a site; on the device."""
        found = [self._loss(site, unit) for unit in range(units.start, units.stop)]
        trajectory, prediction = zip(*found, strict=True)
        return Losses(torch.cat(trajectory), torch.stack(prediction))

    def _loss(self, site: Site, unit: int) -> tuple[Tensor, Tensor]:
        last = max(other.layer for other in self._sites)
        later = [
            other
            for other in self._ffn
            if other.layer > site.layer or other.layer == site.layer == last
        ]
        mask = torch.ones(site.units, device=self._device)
        mask[unit] = 0
        with masked(self._model, {site.name: mask}, self._sites):
            features, predictions = self._run(later)
        trajectory = torch.zeros(1, dtype=torch.float64, device=self._device)
        for other in later:
            ops.trajectory_distance(features[other][None], self._features[other], out=trajectory)
        divergences = [
            self._divergence.between(ours, theirs, batch).sum()
            for ours, theirs, batch in zip(
                predictions, self._predictions, self._batches, strict=True
            )
        ]
        scale = DISTILLATION if self._divergence.of_distributions else 1.0
        return trajectory, scale * torch.stack(divergences).sum().clamp(min=0)

    def _run(self, watched: Sequence[Site]) -> tuple[dict[Site, Tensor], list[Prediction]]:
        """Features of some layers, [rows, outputs] over all batches, and predictions."""
        seen: dict[Site, list[Tensor]] = {site: [] for site in watched}
        predictions = []
        for batch in self._batches:
            with ExitStack() as stack:
                probes = [stack.enter_context(SiteProbe(self._model, site)) for site in watched]
                stack.enter_context(autocast(self._device, self._dtype))
                outputs = self._model(**model_inputs(batch))
            found = self._divergence.prediction(outputs, batch)
            predictions.append(tuple(x.double() for x in found))
            for site, probe in zip(watched, probes, strict=True):
                seen[site].append(probe.output.flatten(0, -2))
        return {site: torch.cat(rows) for site, rows in seen.items()}, predictions
