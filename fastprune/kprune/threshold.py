"""One threshold for all units that are still to be decided on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastprune.budget import Prices


def keep_best(
    worth: NDArray[np.float64], prices: Prices, decided: Sequence[int], limit: float
) -> list[NDArray[np.bool_]]:
    """Keep the units that are worth most, in order, until the next one does not fit.

    Units that cost more than all that is left are passed over.

    Args:
        worth: [units of the remaining sites], what each is worth at its price; finite.
        prices: of all sites, in forward order.
        decided: how many units each of the first sites keeps.
        limit: what all sites together may cost.

    Returns:
        Per remaining site, [units], True = kept. Together with what is decided they cost no more
        than ``limit``, rounding included.
    """
    remaining = prices.sites[len(decided) :]
    owner = np.repeat(np.arange(len(remaining)), [site.units for site in remaining])

    def cost(chosen: NDArray[np.int64]) -> float:
        counts = np.bincount(owner[chosen], minlength=len(remaining))
        # Summed as Prices.dense sums it for the pruned model: the very number that is reported.
        everything = [*decided, *counts.tolist()]
        return sum(n * price for n, price in zip(everything, prices.per_unit, strict=True))

    price = np.asarray(prices.per_unit)[len(decided) :][owner]
    order = np.argsort(-worth, kind="stable")
    order = order[price[order] <= limit - cost(order[:0])]
    fits, too_many = 0, len(order) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if cost(order[:middle]) <= limit:
            fits = middle
        else:
            too_many = middle
    kept = np.zeros(len(worth), dtype=bool)
    kept[order[:fits]] = True
    return [kept[owner == i] for i in range(len(remaining))]
