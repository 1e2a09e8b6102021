"""The score of a model on samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fastprune.data import Samples
from fastprune.errors import DataError
from fastprune.evaluation.answers import best_answers
from fastprune.evaluation.metrics import cosine, find_metric, resolve_metric, similarity
from fastprune.evaluation.predict import predict

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EmbeddingFidelity:
    """Agreement of two models' embeddings; 1 is perfect."""

    similarity: float
    """Spearman correlation of the two models' pairwise cosine similarities."""
    cosine: float
    """Mean cosine of the two vectors of each sample."""


def evaluate(
    model: nn.Module,
    samples: Samples,
    metric: str | None = None,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    reference: nn.Module | Array | None = None,
    progress: bool = True,
) -> float:
    """Score a model where it is, leaving its training mode as it was.

    Args:
        metric: a name from ``METRICS`` for the samples' task; by default the customary one.
        batch_size: samples per forward pass, by default as many as keep the device busy; it
            changes the score by rounding only.
        dtype: ``bfloat16`` or ``float16`` runs under autocast, ``float32`` in the weights' type.
        reference: embedding only: the model to stay close to, or its vectors from
            :func:`embed`.

    Raises:
        FastpruneError: the metric does not exist or fit the task.
        DataError: the samples lack labels, or have one the model does not know.
        NumericalError: an output is not finite; names the batch and its row.
    """
    name = resolve_metric(metric, samples)
    score = find_metric(name, samples.task)
    if samples.task == "embedding" and reference is None:
        raise DataError(f"{name} compares embeddings; pass the dense model as reference")
    if samples.task not in ("embedding", "causal-lm") and samples.labels is None:
        raise DataError(f"{name} needs labels and the data have none; name the label column")

    rows = predict(model, samples, batch_size=batch_size, dtype=dtype, progress=progress)
    if samples.task == "embedding":
        if isinstance(reference, nn.Module):
            reference = embed(
                reference, samples, batch_size=batch_size, dtype=dtype, progress=progress
            )
        return score(np.stack(rows), reference)
    if samples.task == "question-answering":
        if samples.windows is None:
            raise DataError(f"{name} needs questions and contexts, not only their tokens")
        return score(best_answers(rows, samples.windows))
    outputs = np.stack(rows)
    if samples.task == "causal-lm":
        return score(outputs[:, 0], outputs[:, 1])
    assert samples.labels is not None
    labels = samples.labels.numpy()
    if samples.task == "regression":
        return score(outputs.reshape(len(labels), -1)[:, 0], labels)
    if labels.max() >= outputs.shape[1]:
        raise DataError(
            f"the data have class {labels.max()}, but the model only 0 to {outputs.shape[1] - 1}"
            "; use the model's own task data"
        )
    return score(outputs, labels)


def embed(
    model: nn.Module,
    samples: Samples,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Array:
    """Embeddings float32 ``[samples, hidden]``: the mean of the valid tokens, at unit length."""
    return np.stack(predict(model, samples, batch_size=batch_size, dtype=dtype, progress=progress))


def embedding_fidelity(
    dense: nn.Module | Array,
    pruned: nn.Module | Array,
    samples: Samples,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> EmbeddingFidelity:
    """How well pruned embeddings stand in for the dense ones, on held-out text.

    Pass vectors from :func:`embed` to run a model only once. Time and memory of the similarity
    grow with the square of the number of samples.
    """
    vectors = [
        embed(side, samples, batch_size=batch_size, dtype=dtype, progress=progress)
        if isinstance(side, nn.Module)
        else side
        for side in (pruned, dense)
    ]
    return EmbeddingFidelity(similarity(*vectors), cosine(*vectors))
