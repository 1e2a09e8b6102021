"""One score per unit from both losses: in the paper's form, and in that of the released code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune.optin.losses import Losses
from fastprune.structure import Site

PREDICTION_WEIGHT = 0.1
"""λ_c of Algorithm 1, as in the paper's submission."""
_RELEASED_DIVISOR = 10.0
"""Of the released code, by which powers of ten are divided, Λ."""


def mixed(losses: Losses, sites: Sequence[Site]) -> Tensor:
    """Importance after Algorithm 1, ``L_MD + λ_c L_KD``: float64 [units of all sites].

    Heads and filters of all layers are measured alike.
    """
    return losses.trajectory + PREDICTION_WEIGHT * losses.prediction


def mixed_as_released(losses: Losses, sites: Sequence[Site]) -> Tensor:
    """Importance as the released code has it for BERT-like models: float64 [units of all sites].

    L_KD is multiplied by a power of ten, every unit's own, that brings it to between a hundredth of
    L_MD and all of it; where L_KD is the larger one, or zero, by the mean of those powers of the
    units scored before, heads and filters apart. Heads count half, and so do all units of the last
    layer. The number of a unit counts, too: the first head of a layer ten times as much as the
    last one, the first filter a hundred times.
    """
    parts = [site.units for site in sites]
    last = max(site.layer for site in sites)
    scores = []
    scales = _scales(losses, sites)
    for site, trajectory, prediction, scale in zip(
        sites, losses.trajectory.split(parts), losses.prediction.split(parts), scales, strict=True
    ):
        head = site.kind == "attention"
        envelope = torch.from_numpy(np.geomspace(10 if head else 100, 1, site.units))
        factor = (0.5 if head else 1.0) * (0.5 if site.layer == last else 1.0)
        scores.append((trajectory + scale * prediction) * envelope * factor)
    return torch.cat(scores)


def _scales(losses: Losses, sites: Sequence[Site]) -> list[Tensor]:
    """Per site, [units]: what L_KD is multiplied by."""
    parts = [site.units for site in sites]
    trajectory, prediction = losses.trajectory.split(parts), losses.prediction.split(parts)
    scales: dict[int, Tensor] = {}
    for kind in ("attention", "ffn"):
        of_kind = [i for i, site in enumerate(sites) if site.kind == kind]
        if not of_kind:
            continue
        found = _running(
            torch.cat([trajectory[i] for i in of_kind]).numpy(),
            torch.cat([prediction[i] for i in of_kind]).numpy(),
        )
        split = torch.from_numpy(found).split([parts[i] for i in of_kind])
        scales.update(zip(of_kind, split, strict=True))
    return [scales[i] for i in range(len(sites))]


def _running(
    trajectory: NDArray[np.float64], prediction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The scales of units in the order in which they are scored."""
    own = (trajectory > prediction) & (prediction > 0)
    ratio = np.divide(trajectory, prediction, out=np.ones_like(trajectory), where=own)
    scales = 10.0 ** np.trunc(np.log10(ratio) - np.log10(_RELEASED_DIVISOR)) * own
    before: NDArray[np.int64] = np.cumsum(own) - own
    mean = (np.cumsum(scales) - scales) / np.maximum(before, 1)
    return np.where(own, scales, np.where(before > 0, mean, 1.0))
