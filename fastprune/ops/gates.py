"""Hard-concrete gates: the operation behind training what to prune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastprune.checks import is_whole
from fastprune.ops.checks import (
    STATISTICS,
    checked_sizes,
    require,
    require_device,
    require_dtype,
    require_shape,
)


class DrawnGates(NamedTuple):
    """One draw of all gates of a model.

    Attributes:
        gates: ``[gates]``, within [0, 1].
        slopes: ``[gates]``, each gate's derivative by its alpha; 0 where it was clipped.
        open: float64 ``[sites + 2]``, the probability of being open, averaged over the units of
            each site, over the sublayers, and over the hidden dimensions; 1 where none are gated.
        sparsity: float64 scalar, the share of weights that is expected to go.
        sparsity_slopes: ``[gates]``, its derivatives.
    """

    gates: Tensor
    slopes: Tensor
    open: Tensor
    sparsity: Tensor
    sparsity_slopes: Tensor


def hard_concrete(
    alpha: Tensor,
    noise: Tensor,
    sizes: Sequence[int],
    shares: Tensor,
    *,
    sublayers: bool = False,
    hidden: int = 0,
) -> DrawnGates:
    """Draw hard-concrete gates, and tell the sparsity that is expected of them.

    A gate is a sigmoid of ``(logit(noise) + alpha) / T``, stretched to [-0.1, 1.1] and clipped to
    [0, 1], with T = 2/3 (Louizos et al. 2018). It is open with probability ``sigmoid(alpha - T
    ln(1/11))``. A weight stays if its unit, its sublayer and its hidden dimension are open, which
    is taken for independent (Xia et al. 2022, CoFi).

    Args:
        alpha: ``[gates]`` float32 or float64: the units of all sites, site after site; one for the
            sublayer of each site, if ``sublayers``; ``hidden`` ones for the hidden dimensions.
        noise: ``[gates]``, same dtype, uniform in [0, 1]; kept 1e-6 away from both ends.
        sizes: gated units of each site; 0 where units are not gated.
        shares: float64 ``[sites]``, the weights of each site by the weights of all of them.
        sublayers: whether every site has a gate of its own.
        hidden: gated hidden dimensions; 0 if they are not gated.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    sizes = checked_sizes(sizes)
    require(len(sizes) > 0, "sizes must name one site at least")
    require(is_whole(hidden) and hidden >= 0, f"hidden must be a whole number from 0 on: {hidden}")
    gates = sum(sizes) + (len(sizes) if sublayers else 0) + hidden
    require_dtype("alpha", alpha, STATISTICS)
    require_dtype("noise", noise, [alpha.dtype])
    require_dtype("shares", shares, [torch.float64])
    for name, values, length in (
        ("alpha", alpha, gates),
        ("noise", noise, gates),
        ("shares", shares, len(sizes)),
    ):
        require_shape(name, values, [length])
        require_device(name, values, alpha)
    return DrawnGates(
        *torch.ops.fastprune.hard_concrete(alpha, noise, shares, sizes, bool(sublayers), hidden)
    )
