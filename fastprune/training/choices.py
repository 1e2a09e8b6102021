"""What training leaves to choose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastprune.checks import is_number, is_whole
from fastprune.errors import FastpruneError

_MOST = 2**31
LARGEST = 1e30
"""Of rates and other numbers: larger ones overflow before they can be called too large."""


@dataclass(frozen=True)
class Training:
    """How long and in what steps a model is trained.

    Attributes:
        epochs: rounds through the samples, perhaps a part of one.
        batch_size: samples of a batch, in every process.
        accumulate: batches whose gradients make one step.
        learning_rate: the highest. In fine-tuning it rises over the first tenth of the steps and
            falls as a cosine; under gates, and after them, it falls linearly.
        weight_decay: of AdamW.
        save_every: steps between checkpoints; None = at the end of each epoch.
        seed: of the order of samples and of dropout.
        group_by_length: put samples of like length into a batch, so that little is padded.
        dtype: autocast type of the passes.
        progress: whether there is a bar.
    """

    epochs: float = 3.0
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    save_every: int | None = None
    seed: int = 0
    group_by_length: bool = False
    dtype: torch.dtype = torch.float32
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "save_every"):
            value = getattr(self, name)
            if name == "save_every" and value is None:
                continue
            if not is_whole(value) or not 1 <= value < _MOST:
                raise FastpruneError(f"{name} must be a whole number from 1 on, got {value}")
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= LARGEST:
                raise FastpruneError(
                    f"{name} must be a positive number of a sane size, got {value}"
                )
        for name in ("group_by_length", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise FastpruneError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            raise FastpruneError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**31:
            raise FastpruneError(f"seed must be a whole number in [0, 2**31), got {self.seed}")

    def steps(self, samples: int, processes: int = 1) -> int:
        """How many steps that takes, at least one, where each process takes its own batches."""
        per_epoch = math.ceil(samples / (self.batch_size * self.accumulate * processes))
        return max(1, math.ceil(self.epochs * per_epoch))
