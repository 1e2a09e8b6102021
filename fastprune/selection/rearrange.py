"""Mask rearrangement: swap units of a layer while the block-diagonal Fisher says it helps."""

from __future__ import annotations

from torch import Tensor

from fastprune import ops
from fastprune.calibration import Statistics


def rearrange_masks(statistics: Statistics, masks: Tensor) -> Tensor:
    """Rearrange every site of every mask in one native call (Kwon et al. 2022, section 4.2).

    The number of kept units of each site stays what it is; which ones are kept now accounts for
    interactions within the site, which the diagonal ignores.

    Args:
        statistics: Fisher blocks of the sites.
        masks: [masks, units of all sites] or [units of all sites], nonzero = kept.

    Returns:
        float32 of the same shape on the statistics' device, 0 or 1.
    """
    blocks = statistics.mask_fisher()
    masks = masks.to(blocks.device, blocks.dtype)
    return ops.greedy_rearrange(blocks, list(statistics.sizes), masks)
