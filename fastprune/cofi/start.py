"""Where gates start, if not all open: at what the Fisher information says of their units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastprune.calibration import collect_statistics
from fastprune.cofi.gates import LARGEST
from fastprune.cofi.layout import GateLayout
from fastprune.data import Samples
from fastprune.training.choices import Training

_SAMPLES = 2048
"""That are looked at."""


def fisher_start(
    model: nn.Module, layout: GateLayout, samples: Samples, training: Training
) -> Tensor:
    """Alphas by the rank of each unit's Fisher information for what the unit costs.

    The least needed unit starts at 0, the most needed one at the bound of alphas, the others in
    equal steps between them; sublayers and hidden dimensions start open.

    Args:
        model: the dense one.
        layout: of its gates.
        samples: of which some are looked at.
        training: for its seed and types.

    Returns:
        float32 [gates].
    """
    few = samples.draw(min(len(samples), _SAMPLES), training.seed)
    statistics = collect_statistics(
        model,
        few,
        mask_gradients=False,
        output_fisher=False,
        input_moments=False,
        seed=training.seed,
        dtype=training.dtype,
        progress=training.progress,
    )
    gated = [size > 0 for size in layout.sizes]
    worth = [
        part / price
        for part, price, used in zip(
            statistics.importance().cpu().split([site.units for site in layout.sites]),
            layout.prices.per_unit,
            gated,
            strict=True,
        )
        if used
    ]
    start = torch.full((sum(layout.lengths),), LARGEST)
    if worth:
        ranks = torch.cat(worth).argsort().argsort().float()
        start[: len(ranks)] = LARGEST * ranks / max(1, len(ranks) - 1)
    return start
