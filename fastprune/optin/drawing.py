"""Which samples units are scored on."""

from __future__ import annotations

from fastprune.data import Samples
from fastprune.data.samples import draw_positions

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
