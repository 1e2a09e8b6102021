"""How to split what can be spent between heads and filters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Split(NamedTuple):
    """How many of the most important heads and filters to keep, and what they are worth."""

    importance: float
    heads: int
    filters: int


def descending(importance: Array) -> NDArray[np.int64]:
    """Positions by falling importance; of equals the lower one first."""
    return np.argsort(-importance, kind="stable")


def best_split(heads: Array, filters: Array, affordable: NDArray[np.int64]) -> Split | None:
    """The number of heads that, with the filters they leave room for, keeps the most importance.

    Args:
        heads, filters: importance in falling order.
        affordable: ``[len(heads) + 1]``, filters beside each number of heads; negative = too many.

    Returns:
        The best split, of equals that with fewer heads; None where no number of heads will do.
    """
    feasible = (affordable >= 0).nonzero()[0]
    if not len(feasible):
        return None
    worth = np.concatenate([[0.0], heads.cumsum()])
    beside = np.concatenate([[0.0], filters.cumsum()])
    totals = worth[feasible] + beside[affordable[feasible]]
    best = int(totals.argmax())
    count = int(feasible[best])
    return Split(float(totals[best]), count, int(affordable[count]))
