"""What a model makes of samples, in the samples' order and free of padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastprune.data import Samples, Task
from fastprune.data.samples import IGNORED_LABEL, model_inputs
from fastprune.device import autocast, batch_tokens, device_of, evaluation_mode, to_device
from fastprune.errors import NumericalError
from fastprune.progress import progress_bar

Array = np.ndarray[Any, Any]
Batch = dict[str, Tensor]


def predict(
    model: nn.Module,
    samples: Samples,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> list[Array]:
    """One float32 array per sample; what it holds depends on the task.

    Classification, image, regression: logits ``[classes]``. Question answering: start and end
    logits ``[2, tokens]``. Language modelling: summed loss and number of predicted tokens
    ``[2]``. Embedding: the mean of the valid tokens at unit length ``[hidden]``.

    Raises:
        NumericalError: an output is not finite; names the batch and its rows.
    """
    per_sample = _OUTPUTS[samples.task]
    device = device_of(model)
    rows: list[Array | None] = [None] * len(samples)
    with (
        evaluation_mode(model),
        torch.inference_mode(),
        progress_bar("evaluate", total=len(samples), enabled=progress, unit="sample") as bar,
    ):
        for number, batch in enumerate(
            samples.batches(batch_size, tokens=batch_tokens(model, dtype))
        ):
            index = batch.pop("sample_index").tolist()
            batch = to_device(batch, device)
            with autocast(device, dtype):
                outputs = model(**model_inputs(batch))
            for position, row in zip(index, per_sample(outputs, batch), strict=True):
                if not torch.isfinite(row).all():
                    raise NumericalError(
                        f"the model's output for row {samples.ids[position]} (evaluation batch "
                        f"{number}) is not finite; check that row and the weights, "
                        "or use float32"
                    )
                rows[position] = row.numpy()
            bar.update(len(index))
    return [row for row in rows if row is not None]


# Each of these moves a whole batch to the CPU at once: one wait for the device, not one a row.


def _logits(outputs: Any, batch: Batch) -> list[Tensor]:
    return list(outputs.logits.float().cpu())


def _spans(outputs: Any, batch: Batch) -> list[Tensor]:
    logits = torch.stack([outputs.start_logits, outputs.end_logits], dim=1).float().cpu()
    lengths = batch["attention_mask"].sum(1).tolist()
    return [row[:, :length] for row, length in zip(logits, lengths, strict=True)]


def _token_losses(outputs: Any, batch: Batch) -> list[Tensor]:
    """Row by row: a second copy of all logits could be the largest tensor of the run."""
    rows = []
    for logits, labels in zip(outputs.logits, batch["labels"], strict=True):
        predicted = labels[1:] != IGNORED_LABEL
        loss = F.cross_entropy(
            logits[:-1][predicted].float(), labels[1:][predicted], reduction="sum"
        )
        rows.append(torch.stack([loss, predicted.sum().float()]))
    return list(torch.stack(rows).cpu())


def _pooled(outputs: Any, batch: Batch) -> list[Tensor]:
    valid = batch["attention_mask"].unsqueeze(-1)
    hidden = outputs.last_hidden_state.float() * valid
    return list(F.normalize(hidden.sum(1) / valid.sum(1), dim=-1).cpu())


_OUTPUTS: dict[Task, Callable[[Any, Batch], list[Tensor]]] = {
    "classification": _logits,
    "image": _logits,
    "regression": _logits,
    "question-answering": _spans,
    "causal-lm": _token_losses,
    "embedding": _pooled,
}
