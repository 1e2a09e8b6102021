"""Which samples units are scored on, and in which batches."""

from __future__ import annotations

from fastprune.data import Samples
from fastprune.data.samples import draw_positions

_TOGETHER = 64
"""Tokens of a batch: it is variants of the model that fill a pass."""
ROWS = 768
"""Tokens whose features are compared, K in the authors' code."""


def draw_samples(samples: Samples, seed: int, rows: int = ROWS) -> Samples:
    """Whole samples, chosen by ``seed`` alone, until they hold ``rows`` valid tokens; else all."""
    chosen: list[int] = []
    left = rows
    # Images of a model that does not tell its number of patches have no length.
    lengths = [
        length or width for length, width in zip(samples.lengths, samples.widths, strict=True)
    ]
    for position in draw_positions(len(samples), len(samples), seed):
        chosen.append(position)
        left -= lengths[position]
        if left <= 0:
            break
    return samples.select(chosen)


def alike(samples: Samples) -> list[list[int]]:
    """Batches of samples of one width, by position: nothing is spent on padding."""
    by_width: dict[int, list[int]] = {}
    for position, width in enumerate(samples.widths):
        by_width.setdefault(width, []).append(position)
    groups = []
    for width, positions in by_width.items():
        count = max(1, _TOGETHER // width)
        groups += [positions[i : i + count] for i in range(0, len(positions), count)]
    return groups
