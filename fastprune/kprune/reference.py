"""What selection needs to know of the dense model, from one pass over the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.divergence import Divergence, Prediction
from fastprune.calibration.objective import Batch
from fastprune.calibration.recorder import Recorder
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import (
    autocast,
    backward_attention,
    batch_tokens,
    cache_off,
    device_of,
    evaluation_mode,
    trace_bytes,
)
from fastprune.distributed import ALONE, Group
from fastprune.kprune.scores import Scores, score_sites
from fastprune.structure import Site, find_sites

TEMPERATURE = 2.0
"""Of the softened predictions that are compared."""


class Reference:
    """A dense model's predictions, and scores of its units while nothing has been removed.

    It serves any number of budgets. Predictions are kept as long as they fit into memory (those of
    a language model may not), and computed again otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
        group: Group = ALONE,
    ) -> None:
        """Run the samples through the model, forward and backward.

        Args:
            model: the dense model; not changed.
            samples: calibration samples; labels are not used.
            batch_size: samples per forward pass; by default as many as keep the device busy.
            seed: of sampled targets.
            dtype: autocast type of the passes.
            recorder: also records the forward passes, for tuning.
            group: processes that each give their own samples, in whole mini-batches.

        Raises:
            DataError: a task without a divergence.
            NumericalError: a score that is not finite.
        """
        self._model, self._samples, self._dtype = model, samples, dtype
        self._group = group
        self._divergence = Divergence(samples.task, seed, temperature=TEMPERATURE)
        self._groups = samples.groups(batch_size, tokens=batch_tokens(model, dtype))
        self._kept: list[Prediction | None] = []
        self._room = trace_bytes(device_of(model))
        self.scores: Scores = score_sites(
            model,
            find_sites(model),
            samples,
            self._groups,
            self._own_loss,
            by_sample=True,
            dtype=dtype,
            recorder=recorder,
            group=group,
        )
        """Of all units of the model, by the curvature of the divergence from itself."""

    def score(self, student: nn.Module, sites: Sequence[Site]) -> Scores:
        """Score units by how a student's divergence from the dense model depends on them.

        Args:
            student: pruned, at least in part, from the dense model.
            sites: of the student.
        """
        return score_sites(
            student,
            sites,
            self._samples,
            self._groups,
            self._loss,
            dtype=self._dtype,
            group=self._group,
        )

    def _own_loss(self, number: int, outputs: Any, batch: Batch, group: list[int]) -> Tensor:
        found = tuple(x.detach() for x in self._divergence.prediction(outputs, batch))
        self._room -= sum(x.numel() * x.element_size() for x in found)
        self._kept.append(found if self._room >= 0 else None)
        ids = torch.tensor([self._samples.ids[position] for position in group])
        return self._divergence.at_itself(outputs, batch, ids)

    def _loss(self, number: int, outputs: Any, batch: Batch, group: list[int]) -> Tensor:
        ours = self._divergence.prediction(outputs, batch)
        return self._divergence.between(ours, self._prediction(number, batch), batch)

    def _prediction(self, number: int, batch: Batch) -> Prediction:
        found = self._kept[number]
        if found is not None:
            return found
        model, device = self._model, device_of(self._model)
        with (
            torch.no_grad(),
            evaluation_mode(model),
            cache_off(model),
            backward_attention(device, self._dtype),
            autocast(device, self._dtype),
        ):
            return self._divergence.prediction(model(**model_inputs(batch)), batch)
