"""Mask rearrangement with the block-diagonal Fisher information, all layers in one native call."""

from __future__ import annotations

import torch
from torch import Tensor

from fastprune import ops
from fastprune.errors import DataError


def greedy_rearrange(mask: Tensor, grads: Tensor) -> Tensor:
    """Choose anew which units of one sublayer stay, as many as before.

    Args:
        mask: ``[units]``, nonzero = kept.
        grads: ``[rows, units]``, as from :func:`collect_mask_grads`.

    Returns:
        A new mask of zeros and ones. Unlike the original's it never is ``mask`` itself.

    Raises:
        DataError: gradients of other units.
    """
    return rearrange_mask(mask[None], grads[:, None])[0]


@torch.no_grad()
def rearrange_mask(mask: Tensor, grads: Tensor) -> Tensor:
    """Rearrange every layer of a mask (Kwon et al. 2022, section 4.2).

    Units enter the pruned set in the order of their importance; each time, the one leaves that
    costs most there, interactions included. Equals are taken in the original's order.

    Args:
        mask: ``[layers, units]``, nonzero = kept.
        grads: ``[rows, layers, units]``.

    Returns:
        A new mask of zeros and ones, in the dtype and on the device of ``mask``.

    Raises:
        DataError: gradients of other units.
    """
    if grads.dim() != 3 or grads.shape[1:] != mask.shape:
        raise DataError(
            f"gradients {list(grads.shape)} do not belong to a mask {list(mask.shape)}; pass "
            "[rows, layers, units] and [layers, units]"
        )
    layers, units = mask.shape
    sizes = [units] * layers
    blocks = ops.fisher_outer(grads.flatten(1).float(), sizes)
    kept = ops.greedy_rearrange(blocks, sizes, mask.flatten().to(blocks.device))
    return kept.view_as(mask).to(mask)
