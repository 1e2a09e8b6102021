"""The score of a run: one metric on held-out samples, before and after pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastprune.data import Samples
from fastprune.errors import DataError
from fastprune.evaluation.evaluate import embed, evaluate
from fastprune.evaluation.metrics import resolve_metric


class Scorer:
    """Scores the dense and the pruned model on the same held-out samples.

    Without samples it scores nothing and returns None. Embedding models have no labels to be
    right about: they are scored by how well the pruned model keeps the dense one's similarities,
    where the dense model itself scores 1.

    Attributes:
        metric: its name, or None where nothing is scored.
        samples: what is scored on.
    """

    def __init__(
        self,
        samples: Samples | None,
        metric: str | None = None,
        *,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> None:
        """Check the metric against the samples' task before any work starts.

        Raises:
            DataError: a metric without samples.
            FastpruneError: an unknown metric, or one that does not fit the task.
        """
        if samples is None and metric is not None:
            raise DataError(f"metric {metric!r} needs evaluation data; give eval_data (--eval)")
        self.samples = samples
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "dtype": dtype,
            "progress": progress,
        }
        self.metric = None if samples is None else resolve_metric(metric, samples)

    def dense(self, model: nn.Module) -> float | None:
        """Score of the model before pruning; it is also what embeddings are compared with."""
        if self.samples is not None and self.samples.task == "embedding":
            self._options["reference"] = embed(model, self.samples, **self._options)
            return 1.0
        return self.pruned(model)

    def pruned(self, model: nn.Module) -> float | None:
        """Score of a model after pruning."""
        if self.samples is None:
            return None
        return evaluate(model, self.samples, self.metric, **self._options)
