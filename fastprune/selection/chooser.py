"""What every way to select units comes down to: masks for any number of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, Prices
from fastprune.calibration import Statistics
from fastprune.data import Samples
from fastprune.optin import Losses
from fastprune.structure import Site, SiteKind


@dataclass(frozen=True)
class Evidence:
    """What a way to choose units may look at.

    Attributes:
        model: to be pruned; left as it was.
        sites: of the model.
        statistics: of the samples, where the method asks for any.
        samples: to calibrate with.
        losses: what is lost with every unit, where the method goes by it.
        order: int64 [units of all sites], the ones to keep longest first, where a search has found
            one.
        seed: of every random choice.
        batch_size: samples per forward pass; None = as many as keep the device busy.
        dtype: autocast type of forward passes.
        progress: whether long work shows a bar.
    """

    model: nn.Module
    sites: Sequence[Site]
    statistics: Statistics | None
    samples: Samples
    losses: Losses | None = None
    order: Tensor | None = None
    seed: int = 0
    batch_size: int | None = None
    dtype: torch.dtype = torch.float32
    progress: bool = False


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
