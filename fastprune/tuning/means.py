"""The cheapest correction: what removed units give on average stays, in the bias.

An et al. 2024 (FLAP) correct for the mean alone as well. It takes no pass through the pruned model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastprune.structure import Site, get_projection, set_projection
from fastprune.tuning.walk import SiteTuning


@torch.no_grad()
def keep_means(
    dense: nn.Module,
    pruned: nn.Module,
    sites: Sequence[Site],
    masks: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
) -> list[SiteTuning]:
    """Add the mean contribution of removed units to the biases of ``pruned``, in place.

    Args:
        dense: the model that units were removed from.
        pruned: what is left of it.
        sites: of ``dense``.
        masks: per site, [units], nonzero = kept.
        means: per site, [columns], the mean input of its projection.

    Returns:
        One entry per site that lost units; a projection without a bias stays as it is and says so.
    """
    outcomes = []
    for site in sites:
        removed = (masks[site.name] == 0).repeat_interleave(site.group)
        if not removed.any():
            continue
        weight, bias = get_projection(dense, site)
        left, _ = get_projection(pruned, site)
        failure = None
        if bias is None:
            failure = "its projection has no bias"
        else:
            mean = means[site.name].to(weight).where(removed.to(weight.device), 0)
            set_projection(pruned, site, left, bias + weight @ mean)
        outcomes.append(SiteTuning(site.name, None, failure))
    return outcomes
