"""Samples: what every stage reads, kept unpadded until a batch is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fastprune.data.squad import Window
from fastprune.data.tasks import IMAGE_TASKS, Task
from fastprune.errors import DataError

IGNORED_LABEL = -100
"""Token label that the loss skips, as in ``torch.nn.functional.cross_entropy``."""
_NO_INPUTS = ("labels", "start_positions", "end_positions", "sample_index")


@dataclass(frozen=True)
class Padding:
    """What tokens are filled with, up to the longest sample of a batch.

    Batches are always padded on the right, whatever the tokenizer prefers for generation: then
    every token keeps its position, and results do not depend on the batch a sample is in.
    """

    token_id: int = 0
    token_type_id: int = 0

    def value(self, feature: str) -> int:
        """The filler of one feature; masks are filled with zeros."""
        fillers = {
            "input_ids": self.token_id,
            "token_type_ids": self.token_type_id,
            "labels": IGNORED_LABEL,
        }
        return fillers.get(feature, 0)


@dataclass(frozen=True, eq=False)
class Samples:
    """Model inputs, one entry per sample, in the order of ``ids``.

    Attributes:
        features: per sample, unpadded token lists (``input_ids``, ``attention_mask``, perhaps
            ``token_type_ids`` and per-token ``labels``), or ``pixel_values`` ``[channels, height,
            width]`` for images.
        labels: int64 ``[samples]`` classes, float32 ``[samples]`` targets, or int64
            ``[samples, 2]`` first and last answer token; ``None`` without labels and for
            ``causal-lm`` and ``embedding``, which need none.
        ids: row of each sample in its source, counted from 0.
        task: what the model does with them.
        padding: how batches are filled up.
        metric: name of the metric customary for this data set, if it is a known one.
        windows: question answering only: where each sample's tokens lie in its context.
        image_tokens: images only: tokens the model makes of one image, 0 if unknown.
    """

    features: list[dict[str, Any]]
    labels: torch.Tensor | None
    ids: list[int]
    task: Task
    padding: Padding = field(default_factory=Padding)
    metric: str | None = None
    windows: list[Window] | None = None
    image_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.features:
            raise DataError("no samples are left; give data with at least one text")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def of_images(self) -> bool:
        """Whether the model sees images, and not texts."""
        return self.task in IMAGE_TASKS

    @property
    def lengths(self) -> list[int]:
        """Valid tokens of each sample, special tokens included."""
        if self.of_images:
            return [self.image_tokens] * len(self)
        return [int(sum(sample["attention_mask"])) for sample in self.features]

    @property
    def widths(self) -> list[int]:
        """Tokens of each sample as the model gets it, those that its mask leaves out included."""
        if self.of_images:
            # Where the number of patches is unknown, that of a usual model serves.
            return [self.image_tokens or 256] * len(self)
        return [len(sample["input_ids"]) for sample in self.features]

    @property
    def mean_length(self) -> float:
        """Mean number of valid tokens per sample, special tokens included."""
        return sum(self.lengths) / len(self)

    def select(self, positions: Sequence[int]) -> Samples:
        """The samples at these positions, in this order."""
        return replace(
            self,
            features=[self.features[p] for p in positions],
            labels=None if self.labels is None else self.labels[list(positions)],
            ids=[self.ids[p] for p in positions],
            windows=None if self.windows is None else [self.windows[p] for p in positions],
        )

    def draw(self, n: int, seed: int) -> Samples:
        """``n`` different samples, chosen by ``seed`` alone.

        Raises:
            DataError: ``n`` is not positive or exceeds what exists.
        """
        return self.select(draw_positions(len(self), n, seed))

    def batches(
        self, batch_size: int | None = None, *, tokens: int = 1024, bucketed: bool = True
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Padded CPU batches; :func:`model_inputs` is what the model takes of them.

        ``sample_index`` (int64) holds each row's position in these samples. ``bucketed`` sorts
        by length: little is spent on padding, and the longest batch comes first, so that a
        machine short of memory fails at once. Otherwise batches follow the samples' own order.

        Arguments and errors are those of :meth:`groups`.
        """
        return map(self.collate, self.groups(batch_size, tokens=tokens, bucketed=bucketed))

    def groups(
        self, batch_size: int | None = None, *, tokens: int = 1024, bucketed: bool = True
    ) -> list[list[int]]:
        """The positions of the samples of each batch, for :meth:`collate`.

        Args:
            batch_size: samples per batch; None = as many as ``tokens`` allow, at least one.
            tokens: most tokens of such a batch, padding included.
            bucketed: sort by length.

        Raises:
            DataError: ``batch_size`` is not positive.
        """
        if batch_size is not None and batch_size < 1:
            raise DataError(f"batch size {batch_size} is not positive; give 1 or more")
        widths = self.widths
        order = list(range(len(self)))
        if bucketed:
            # sorted() is stable, so equal lengths keep their order.
            order.sort(key=lambda p: widths[p], reverse=True)
        groups: list[list[int]] = []
        group: list[int] = []
        widest = 0
        for position in order:
            widest = max(widest, widths[position])
            fits = (
                (len(group) + 1) * widest <= tokens
                if batch_size is None
                else len(group) < batch_size
            )
            if group and not fits:
                groups.append(group)
                group, widest = [], widths[position]
            group.append(position)
        return [*groups, group]

    def collate(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """One padded batch of the samples at these positions, as :meth:`batches` yields it."""
        rows = [self.features[p] for p in positions]
        if self.of_images:
            batch = {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
        else:
            batch = {name: self._pad(name, [row[name] for row in rows]) for name in rows[0]}
        if self.task == "causal-lm" and "labels" not in batch:
            padded = batch["attention_mask"] == 0
            batch["labels"] = batch["input_ids"].masked_fill(padded, IGNORED_LABEL)
        if self.labels is not None:
            labels = self.labels[list(positions)]
            if self.task == "question-answering":
                batch["start_positions"], batch["end_positions"] = labels.unbind(1)
            else:
                batch["labels"] = labels
        batch["sample_index"] = torch.tensor(positions)
        return batch

    def _pad(self, name: str, rows: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, rows))
        padded = np.full((len(rows), longest), self.padding.value(name), dtype=np.int64)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(padded)


def model_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model reads: the batch without labels, so that it computes no loss of its own."""
    return {name: value for name, value in batch.items() if name not in _NO_INPUTS}


def draw_positions(available: int, n: int, seed: int) -> list[int]:
    """``n`` different positions below ``available``; the choice behind ``Samples.draw``."""
    if n < 1:
        raise DataError(f"{n} samples were asked for; ask for 1 or more")
    if n > available:
        raise DataError(
            f"{n} samples were asked for, but the data hold {available}; "
            f"ask for at most {available} or give more data"
        )
    # NumPy froze the stream of RandomState, so one seed means one choice on every version.
    return [int(p) for p in np.random.RandomState(seed).permutation(available)[:n]]
