"""How far a model's predictions are from those of the dense model: one number per sample.

Where the output is categorical, the Kullback-Leibler divergence of the distributions softened by a
temperature, times its square, as in distillation; where it is a vector, the squared error.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastprune.calibration.objective import (
    Batch,
    at_least_float32,
    make_objective,
    mean_pooled,
)

Prediction = tuple[Tensor, ...]
"""What of a model's output is compared: logits, both logits of a span, or vectors."""


class Divergence:
    """The divergence that belongs to a task.

    Classes: of their distribution. Question answering: the mean over first and last token, as in
    the task's loss. Language models: the sum over predicted tokens. Regression: the mean square.
    Embeddings: the squared distance of the mean-pooled outputs. Segmentation: the sums over queries
    of their classes, and over the pixels of their masks.
    """

    def __init__(self, task: str, seed: int, *, temperature: float) -> None:
        """Choose for a task.

        Args:
            task: a task name of :class:`fastprune.data.Samples`.
            seed: of the draws of :meth:`at_itself`.
            temperature: softens distributions.

        Raises:
            DataError: a task that nothing is known for.
        """
        self._task, self._temperature = task, temperature
        self._objective = make_objective(task, labelled=False, seed=seed)

    @property
    def of_distributions(self) -> bool:
        """Whether it compares distributions, and not vectors."""
        return self._task not in ("regression", "embedding")

    def prediction(self, outputs: Any, batch: Batch) -> Prediction:
        """Take from a model's outputs what is compared."""
        if self._task == "question-answering":
            return outputs.start_logits, outputs.end_logits
        if self._task == "embedding":
            return (mean_pooled(outputs, batch),)
        if self._task == "segmentation":
            # A mask is a choice of two for every pixel.
            inside = outputs.masks_queries_logits.flatten(1)
            return outputs.class_queries_logits, torch.stack([inside, torch.zeros_like(inside)], -1)
        return (outputs.logits,)

    def between(self, ours: Prediction, theirs: Prediction, batch: Batch) -> Tensor:
        """How far ``ours`` are from ``theirs``, which count as the truth: [samples].

        Computed in the type of the predictions, float32 at least.
        """
        ours, theirs = (tuple(map(at_least_float32, pair)) for pair in (ours, theirs))
        if not self.of_distributions:
            squares = (ours[0] - theirs[0]).square()
            return squares.mean(-1) if self._task == "regression" else squares.sum(-1)
        if self._task == "causal-lm":
            valid = batch["attention_mask"][:, 1:].bool()
            return (self._kl(ours[0][:, :-1], theirs[0][:, :-1]) * valid).sum(-1)
        if self._task == "question-answering":
            padding = batch["attention_mask"] == 0
            # Finite, also by a temperature below 1.
            least = torch.finfo(torch.float32).min * min(1.0, self._temperature)
            ours, theirs = (
                tuple(x.masked_fill(padding, least) for x in pair) for pair in (ours, theirs)
            )
        parts = [self._kl(a, b) for a, b in zip(ours, theirs, strict=True)]
        if self._task == "segmentation":
            return parts[0].sum(-1) + parts[1].sum(-1)
        return torch.stack(parts).mean(0)

    def at_itself(self, outputs: Any, batch: Batch, ids: Tensor) -> Tensor:
        """A loss for a model that is still the dense one: float32 [samples].

        There the divergence and its gradient are zero. What is left is curvature: the second
        moment of this loss's gradients (over draws; two classes need none) is the Hessian of the
        divergence from the model to itself, its true Fisher information. The existing objective
        gives that at temperature 1 with one half of it in squared errors and spans; both are
        mended by scaling.

        Args:
            outputs: of the model.
            batch: what they were computed from.
            ids: int64 [samples], which belong to the draws.
        """
        if self._task == "regression":
            return self._objective(outputs, batch, ids) * math.sqrt(2 / outputs.logits.shape[-1])
        if self._task == "embedding":
            return self._objective(outputs, batch, ids) * math.sqrt(2)
        if self._task == "question-answering":
            softened = SimpleNamespace(
                start_logits=outputs.start_logits / self._temperature,
                end_logits=outputs.end_logits / self._temperature,
            )
            # Half of each of two independent draws has half the moment of their mean divergence.
            return self._objective(softened, batch, ids) * (self._temperature * math.sqrt(2))
        softened = SimpleNamespace(logits=outputs.logits / self._temperature)
        return self._objective(softened, batch, ids) * self._temperature

    def _kl(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Softened divergence of logits [..., classes] times the temperature squared: [...]."""
        p, q = ((x / self._temperature).log_softmax(-1) for x in (theirs, ours))
        return self._temperature**2 * (p.exp() * (p - q)).sum(-1)
