"""What follows the last block: predictions of variants, and their distance from the dense ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastprune.calibration.divergence import Divergence, Prediction
from fastprune.calibration.replay import known_hidden
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, device_of, to_device
from fastprune.optin.stacking import stacked_batch

DISTILLATION = 16.0
"""Factor of divergences of distributions: a temperature of 4, squared. As in the authors' code it
softens nothing."""


class Ending:
    """Runs a model's head on hidden states that are known, batch by batch."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        batches: Sequence[dict[str, Tensor]],
        *,
        task: str,
        dtype: torch.dtype,
        in_tuple: bool,
    ) -> None:
        """Nothing is run yet.

        Args:
            model: in evaluation mode, keeping no keys and values.
            blocks: paths of its Transformer layers.
            batches: that the hidden states will be of.
            task: a task name of :class:`fastprune.data.Samples`.
            dtype: autocast type.
            in_tuple: whether blocks hand on their output in a tuple.

        Raises:
            DataError: a task that no divergence is known for.
        """
        self._model, self._blocks, self._in_tuple = model, blocks, in_tuple
        self._device, self._dtype = device_of(model), dtype
        self._batches = [to_device(batch, self._device) for batch in batches]
        self._divergence = Divergence(task, 0, temperature=1.0)

    def predictions(self, hidden: Sequence[Tensor]) -> list[Prediction]:
        """What the dense model predicts.

        Args:
            hidden: what leaves its last block; by batch, [samples, tokens, hidden size].
        """
        return [self._predict(batch, x) for batch, x in zip(self._batches, hidden, strict=True)]

    def divergences(self, hidden: Sequence[Tensor], dense: Sequence[Prediction]) -> Tensor:
        """L_KD of variants: 16 times the divergence from the dense model, summed over samples.

        Where predictions are vectors, the squared error, once.

        Args:
            hidden: what leaves their last block; by batch, [variants * samples, tokens, hidden
                size].
            dense: its predictions.

        Returns:
            float64 [variants].
        """
        found = []
        for given, theirs, x in zip(self._batches, dense, hidden, strict=True):
            variants = len(x) // len(theirs[0])
            batch = stacked_batch(given, variants)
            ours = self._predict(batch, x)
            repeated = tuple(values.repeat(variants, *[1] * (values.ndim - 1)) for values in theirs)
            found.append(self._divergence.between(ours, repeated, batch).view(variants, -1).sum(1))
        scale = DISTILLATION if self._divergence.of_distributions else 1.0
        return scale * torch.stack(found).sum(0).clamp(min=0)

    def _predict(self, batch: dict[str, Tensor], hidden: Tensor) -> Prediction:
        with (
            known_hidden(self._model, self._blocks, hidden, in_tuple=self._in_tuple),
            autocast(self._device, self._dtype),
        ):
            outputs = self._model(**model_inputs(batch))
        # One unit changes logits little, and their divergence by the square of that.
        return tuple(x.double() for x in self._divergence.prediction(outputs, batch))
