"""What a model is trained for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fastprune.data import Samples
from fastprune.fingerprint import fingerprint_samples

_FAR = 1e300
"""What a checkpoint that is off its target counts less than any that is not."""


@dataclass(frozen=True)
class Goal:
    """What a model is trained for.

    Attributes:
        samples: to learn from, labelled.
        score: of a compacted model on held-out data; None = the last checkpoint is taken.
        metric: what is scored.
        held_out: what it is scored on.
        greater_is_better: of scores.
        seq_len: tokens at which MACs are counted.
    """

    samples: Samples
    score: Callable[[nn.Module], float | None] | None
    metric: str | None
    held_out: Samples | None
    greater_is_better: bool
    seq_len: float

    def short_by(self, missing: float) -> float:
        """What a checkpoint counts that lacks some sparsity: less than any that does not, and the
        less, the more it lacks."""
        value = _FAR * (1 + missing)
        return -value if self.greater_is_better else value

    def without_short(self, entry: dict[str, float]) -> dict[str, float]:
        """An entry of a record, without a score that says :meth:`short_by`."""
        return {n: v for n, v in entry.items() if n != "score" or abs(v) < _FAR}

    def better(self, one: float, other: float) -> bool:
        """Whether one score is better than another."""
        return one > other if self.greater_is_better else one < other

    def parts(self) -> dict[str, Any]:
        """All that a training depends on, samples by their fingerprints."""
        return {
            "samples": fingerprint_samples(self.samples),
            "held-out samples": self.held_out and fingerprint_samples(self.held_out),
            "metric": self.metric,
            "seq_len": self.seq_len,
        }
