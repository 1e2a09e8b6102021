"""The loss whose mask gradients are collected: one number per sample, with or without labels.

Without labels the targets come from the model's own output distribution, which makes the collected
matrix the true Fisher information rather than the empirical one: classes, positions or tokens are
drawn where the output is categorical, Gaussian noise where it is a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fastprune.data.samples import IGNORED_LABEL
from fastprune.errors import DataError

Targets = Literal["model", "labels"]
Batch = dict[str, Tensor]
Objective = Callable[[Any, Batch, Tensor], Tensor]
"""(model outputs, batch, sample ids int64 [samples]) -> loss per sample, float32 [samples]."""

# More samples than this would share draws between neighbouring seeds. The generator reads only the
# lower 32 bits of its seed, so the stride has to be small.
_SEED_STRIDE = 1_000_003


def make_objective(task: str, *, labelled: bool, seed: int) -> Objective:
    """Choose the loss of a task.

    Args:
        task: a task name of :class:`fastprune.data.Samples`.
        labelled: use the batch's labels; otherwise draw targets from the model's output.
        seed: of the draws. A sample's draw depends on its own id only, so neither batches nor
            shards change it.
    """
    try:
        loss = _LOSSES[task]
    except KeyError:
        raise DataError(f"no calibration loss is known for task {task!r}") from None
    return partial(loss, draw=_Draw(seed) if not labelled or task == "embedding" else None)


class _Draw:
    """Random numbers that belong to a sample, whatever batch it arrives in."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, index: Tensor, size: int, like: Tensor, *, normal: bool = False) -> Tensor:
        """Uniform or standard normal numbers, float32 [len(index), size], on ``like``'s device."""
        rows = []
        for i in index.tolist():
            generator = torch.Generator().manual_seed(self._seed * _SEED_STRIDE + i)
            make = torch.randn if normal else torch.rand
            rows.append(make(size, generator=generator))
        return torch.stack(rows).to(like.device)


def _categorical(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample classes by inverting the cumulative distribution: logits [..., C], uniform [...]."""
    cumulative = logits.detach().softmax(-1).cumsum(-1)
    # The last cumulative sum can round below 1; clamping keeps the class in range.
    drawn = torch.searchsorted(cumulative, uniform.unsqueeze(-1).contiguous()).squeeze(-1)
    return drawn.clamp_(max=logits.shape[-1] - 1)


def _classes(out: Any, batch: Batch, index: Tensor, *, draw: _Draw | None) -> Tensor:
    logits = out.logits.float()
    if draw is None:
        target = batch["labels"].view(-1)
    elif logits.shape[1] == 2:
        # The expectation over both classes is the square of one gradient: no need to draw.
        p = logits.detach().softmax(-1)
        return (p[:, 0] * p[:, 1]).sqrt() * (logits[:, 1] - logits[:, 0])
    else:
        target = _categorical(logits, draw(index, 1, logits).squeeze(1))
    return F.cross_entropy(logits, target, reduction="none")


def _regression(out: Any, batch: Batch, index: Tensor, *, draw: _Draw | None) -> Tensor:
    values = out.logits.float()
    if draw is None:
        return (values - batch["labels"].view_as(values).float()).square().mean(-1)
    return (draw(index, values.shape[1], values, normal=True) * values).sum(-1)


def _spans(out: Any, batch: Batch, index: Tensor, *, draw: _Draw | None) -> Tensor:
    # Padding cannot be an answer; left in, it would make the loss depend on the batch.
    padding = batch["attention_mask"] == 0
    start, end = (
        x.float().masked_fill(padding, torch.finfo(torch.float32).min)
        for x in (out.start_logits, out.end_logits)
    )
    if draw is None:
        # Answers cut off by truncation are marked with a position past the end and do not count.
        tokens = start.shape[1]
        targets = [
            batch[key].view(-1).masked_fill(batch[key].view(-1) >= tokens, IGNORED_LABEL)
            for key in ("start_positions", "end_positions")
        ]
    else:
        uniform = draw(index, 2, start)
        targets = [_categorical(x, uniform[:, i]) for i, x in enumerate((start, end))]
    losses = [
        F.cross_entropy(x, y, reduction="none", ignore_index=IGNORED_LABEL)
        for x, y in zip((start, end), targets, strict=True)
    ]
    return (losses[0] + losses[1]) / 2


def _tokens(out: Any, batch: Batch, index: Tensor, *, draw: _Draw | None) -> Tensor:
    """Negative log-likelihood of a sequence: the sum over its predicted tokens."""
    logits = out.logits[:, :-1].float()
    valid = batch["attention_mask"][:, 1:].bool()
    if draw is None:
        target = batch["labels"][:, 1:]
    else:
        target = _categorical(logits, draw(index, logits.shape[1], logits))
    target = target.masked_fill(~valid, IGNORED_LABEL)
    losses = F.cross_entropy(
        logits.transpose(1, 2), target, reduction="none", ignore_index=IGNORED_LABEL
    )
    return losses.sum(-1)


def _segments(out: Any, batch: Batch, index: Tensor, *, draw: _Draw | None) -> Tensor:
    """A class for every query, and for every pixel of its mask whether it belongs to it."""
    if draw is None:
        raise DataError("segments have no labels here; leave targets at 'model'")
    classes, masks = out.class_queries_logits.float(), out.masks_queries_logits.float().flatten(1)
    uniform = draw(index, classes.shape[1] + masks.shape[1], classes)
    of_classes, of_masks = uniform.split([classes.shape[1], masks.shape[1]], dim=1)
    target = _categorical(classes, of_classes)
    losses = F.cross_entropy(classes.transpose(1, 2), target, reduction="none").sum(-1)
    inside = (of_masks < masks.detach().sigmoid()).float()
    return losses + F.binary_cross_entropy_with_logits(masks, inside, reduction="none").sum(-1)


def _embedding(out: Any, batch: Batch, index: Tensor, *, draw: _Draw | None) -> Tensor:
    """A random projection of the mean-pooled output: the Fisher of a unit-variance Gaussian."""
    pooled = mean_pooled(out, batch)
    assert draw is not None
    return (draw(index, pooled.shape[1], pooled, normal=True) * pooled).sum(-1)


def mean_pooled(out: Any, batch: Batch) -> Tensor:
    """The mean of a model's last hidden states over valid tokens: [samples, width]."""
    hidden = at_least_float32(out.last_hidden_state)
    mask = batch.get("attention_mask")
    if mask is None:
        return hidden.mean(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half types have too few digits for sums and differences of predictions."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


_LOSSES = {
    "classification": _classes,
    "image": _classes,
    "regression": _regression,
    "question-answering": _spans,
    "causal-lm": _tokens,
    "embedding": _embedding,
    "segmentation": _segments,
}
