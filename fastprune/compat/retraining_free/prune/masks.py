"""The original's two masks, as the masks of sites."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastprune.errors import FastpruneError
from fastprune.structure import Site


def by_site(sites: Sequence[Site], head_mask: Tensor, neuron_mask: Tensor) -> dict[str, Tensor]:
    """One row per site, ``[units]``, keyed by site name; views.

    Args:
        sites: of a model.
        head_mask: ``[layers, heads]``.
        neuron_mask: ``[layers, filters]``.

    Raises:
        FastpruneError: masks of another number of layers, heads or filters.
    """
    masks = {"attention": head_mask.detach(), "ffn": neuron_mask.detach()}
    for site in sites:
        shape = tuple(masks[site.kind].shape)
        if len(shape) != 2 or site.layer >= shape[0] or site.units != shape[1]:
            raise FastpruneError(
                f"a mask {list(shape)} does not fit {site.name} of layer {site.layer} with "
                f"{site.units} units; pass [layers, heads] and [layers, filters] of this model"
            )
    return {site.name: masks[site.kind][site.layer] for site in sites}
