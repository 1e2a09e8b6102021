"""Masks on a live model, attached where every transformers version calls: at the projection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from fastprune.errors import FastpruneError
from fastprune.structure.site import Site
from fastprune.structure.sites import find_sites

Multiply = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def masked(
    model: nn.Module,
    masks: Mapping[str, torch.Tensor],
    sites: Sequence[Site] | None = None,
) -> Iterator[nn.Module]:
    """Within the context, multiply what flows through each site by its unit mask.

    Masks of heads and filters multiply the input of the output projection, those of inner sites
    what their gates put out. Of ``"qk"`` they multiply queries alone, so that logits are linear in
    them: were keys multiplied as well, slopes at 1 would promise twice of what removal does, and
    second moments of slopes four times as much as those of other units. Masks that require
    gradients get them.

    Args:
        masks: site name to float or bool [units]; sites not named are left alone. A unit with
            mask 0 contributes exactly nothing, even where its activations are not finite.
        sites: that the masks are of; by default those of :func:`find_sites`.

    Raises:
        FastpruneError: a name that is no site, a wrong length, or a non-finite value.
    """
    pairs = check_masks(find_sites(model) if sites is None else sites, masks)
    with ExitStack() as hooks:
        for site, mask in pairs:
            multiply = _multiplier(site, mask)
            for gate, act in zip(site.gates, (multiply, _remover(site, mask)), strict=False):
                hooks.callback(_mask_output(model.get_submodule(gate), act).remove)
            if not site.gates:
                hooks.callback(_mask_input(model.get_submodule(site.name), multiply).remove)
        yield model


def check_masks(
    sites: Sequence[Site], masks: Mapping[str, torch.Tensor]
) -> list[tuple[Site, torch.Tensor]]:
    """Pair each named site with its mask, in forward order, refusing masks that do not fit."""
    unknown = set(masks) - {site.name for site in sites}
    if unknown:
        raise FastpruneError(
            f"no site is called {sorted(unknown)[0]!r}; take mask names from find_sites(model), or "
            "pass the sites that the masks are of"
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


def _multiplier(site: Site, mask: torch.Tensor) -> Multiply:
    def multiply(x: torch.Tensor) -> torch.Tensor:
        columns = site.spread(mask.to(x))
        y = x * columns
        if not mask.requires_grad:
            # 0 * inf is NaN. A mask being differentiated needs the plain product instead.
            y = y.masked_fill(columns == 0, 0)
        return y

    return multiply


def _remover(site: Site, mask: torch.Tensor) -> Multiply:
    """Of keys whose queries are multiplied: those that a mask of 0 drops may not be finite."""

    def remove(x: torch.Tensor) -> torch.Tensor:
        # A mask being differentiated has slopes at 0, too.
        return x if mask.requires_grad else x.masked_fill(site.spread(mask.to(x)) == 0, 0)

    return remove


def _mask_input(module: nn.Module, multiply: Multiply) -> RemovableHandle:
    return module.register_forward_pre_hook(lambda _, args: (multiply(args[0]), *args[1:]))


def _mask_output(module: nn.Module, multiply: Multiply) -> RemovableHandle:
    # First of all hooks, before heads of uneven widths are padded.
    return module.register_forward_hook(lambda _, args, output: multiply(output), prepend=True)
