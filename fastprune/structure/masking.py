"""Masks on a live model, attached where every transformers version calls: at the projection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from fastprune.errors import FastpruneError
from fastprune.structure.site import Site
from fastprune.structure.sites import find_sites


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> Iterator[nn.Module]:
    """Within the context, multiply the input of each output projection by its unit mask.

    Args:
        masks: site name to float or bool [units]; sites not named are left alone. A unit with
            mask 0 contributes exactly nothing, even where its activations are not finite.

    Raises:
        FastpruneError: a name that is no site, a wrong length, or a non-finite value.
    """
    sites = check_masks(find_sites(model), masks)
    with ExitStack() as hooks:
        for site, mask in sites:
            module = model.get_submodule(site.name)
            hooks.callback(module.register_forward_pre_hook(_multiply(mask, site.group)).remove)
        yield model


def check_masks(
    sites: list[Site], masks: Mapping[str, torch.Tensor]
) -> list[tuple[Site, torch.Tensor]]:
    """Pair each named site with its mask, in forward order, refusing masks that do not fit."""
    unknown = set(masks) - {site.name for site in sites}
    if unknown:
        raise FastpruneError(
            f"no site is called {sorted(unknown)[0]!r}; take mask names from find_sites(model)"
        )
    pairs = [(site, masks[site.name]) for site in sites if site.name in masks]
    for site, mask in pairs:
        if tuple(mask.shape) != (site.units,):
            raise FastpruneError(
                f"the mask of {site.name} has shape {tuple(mask.shape)} but the site has "
                f"{site.units} units; pass one value per unit"
            )
        if mask.is_floating_point() and not torch.isfinite(mask).all():
            raise FastpruneError(f"the mask of {site.name} is not finite; use 0 to drop a unit")
    return pairs


def _multiply(mask: torch.Tensor, group: int) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        columns = mask.to(x).repeat_interleave(group)
        y = x * columns
        if not mask.requires_grad:
            # 0 * inf is NaN. A mask being differentiated needs the plain product instead.
            y = y.masked_fill(columns == 0, 0)
        return (y, *args[1:])

    return hook
