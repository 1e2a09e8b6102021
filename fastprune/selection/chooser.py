"""What every way to select units comes down to: masks for any number of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from fastprune.budget import Budget, Prices
from fastprune.structure import SiteKind


class Chooser(Protocol):
    """Knows what the units of a model are worth, and so which of them a budget should keep."""

    def masks(
        self,
        prices: Prices,
        budgets: Sequence[Budget],
        *,
        align: int = 1,
        uniform: Sequence[SiteKind] | None = None,
    ) -> Tensor:
        """Choose the units of several budgets of one kind.

        Args:
            prices: what the units cost.
            budgets: what may be spent, all of the kind that ``prices`` holds.
            align: filter counts are multiples of this.
            uniform: kinds of site that may shrink, by the same count in every layer, the others
                staying whole; ``None`` lets all shrink and layers differ.

        Returns:
            float32 [len(budgets), units of all sites] on the CPU, 1 = kept.

        Raises:
            BudgetError: a budget that nothing fits into; names the smallest reachable one.
        """
        ...
