"""Physical removal of masked units, with other widths in every layer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from fastprune.compaction.hidden import check_hidden, cut_hidden, refit_hidden
from fastprune.compaction.pruned_config import describe_, describes_heads
from fastprune.compaction.refit import refit
from fastprune.compaction.remains import (
    Remains,
    Replacements,
    cut,
    find_remains,
    refuse_shared,
)
from fastprune.structure.declaration import Anatomy, anatomy
from fastprune.structure.heads import HeadWidths, all_head_widths
from fastprune.structure.inner import find_inner_sites
from fastprune.structure.masking import check_masks
from fastprune.structure.site import Site
from fastprune.structure.sites import layer_units, sites_of
from fastprune.structure.stream import ResidualStream, residual_stream, stream_width

Model = TypeVar("Model", bound=nn.Module)


def compact(
    model: Model,
    masks: Mapping[str, torch.Tensor],
    sites: Sequence[Site] | None = None,
    *,
    hidden: torch.Tensor | None = None,
) -> Model:
    """A physically smaller copy of ``model`` without the units whose mask is zero.

    Args:
        masks: site name to float or bool [units], nonzero = kept; sites not named keep all units.
            Mask values only choose: nothing is scaled by them.
        sites: that the masks are of, such as those of :func:`find_inner_sites`; by default those
            of :func:`find_sites`.
        hidden: float or bool [hidden size], nonzero = kept: dimensions of the residual stream to
            remove from everything that sees it. Norms are then taken over those that stay. Of a
            model's heads for tasks the usual ones are known; with others, try the copy.

    The original is untouched. dtype, device, ``requires_grad``, training flags and tied weights
    carry over. Removed weights are never copied, so the peak is the original plus the result.
    The copy's config describes its widths, so that plain ``save_pretrained`` works on it, too.

    Heads of a layer may keep different numbers of query-key and value dimensions. Attention then
    runs on all heads at the width of the widest, with zeros in between that change nothing; logits
    are scaled as they were. A layer without query-key dimensions attends uniformly, a head without
    value dimensions goes.

    Raises:
        UnsupportedModelError: no declaration fits, or a prunable weight is shared.
        FastpruneError: masks that do not fit the model.
    """
    found = anatomy(model)
    remains = _remains(model, found, masks, sites)
    stream = None if hidden is None else residual_stream(model, found)
    if stream is not None and hidden is not None:
        hidden = check_hidden(stream, hidden)
    cuts = _cuts(model, remains, stream, hidden)
    # deepcopy takes the shortened parameters from the memo instead of copying the long ones.
    small = copy.deepcopy(model, dict(cuts))
    # transformers 4 keeps the static cache of the last generate(), sized for the original heads.
    small.__dict__.pop("_cache", None)
    refit(small, found, _widths(model, found, remains))
    if stream is not None and hidden is not None:
        refit_hidden(small, stream, int(hidden.sum()))
    if cuts:
        _describe(small, found, sites)
    return small


def shrink_(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Remove the units whose mask is zero from ``model`` itself; see :func:`compact`."""
    found = anatomy(model)
    if _shorten_(model, found, _remains(model, found, masks)):
        _describe(model, found)


def refit_(model: nn.Module) -> None:
    """Make head counts and config agree with the weights of a model that others have pruned."""
    found = anatomy(model)
    refit(model, found, all_head_widths(model, found))
    _describe(model, found)


def resize_(
    model: nn.Module,
    units: Mapping[Any, list[int]],
    widths: Sequence[HeadWidths] | None = None,
    hidden: int | None = None,
) -> None:
    """Shrink ``model`` in place to ``units[kind][layer]`` units, keeping the first ones.

    For skeletons whose weights are yet to be loaded; works on the meta device.

    Args:
        model: with at least as many units.
        units: as :func:`layer_units` counts them.
        widths: of the heads that are left in every layer; None = they stay as wide as they are.
        hidden: dimensions that are left; None = all.
    """
    # Loaders call this where tensors are born on the meta device; masks need values.
    with torch.device("cpu"):
        _resize_(model, units, widths, hidden)


def _resize_(
    model: nn.Module,
    units: Mapping[Any, list[int]],
    widths: Sequence[HeadWidths] | None,
    hidden: int | None,
) -> None:
    found = anatomy(model)
    masks = {
        site.name: torch.arange(site.units) < units[site.kind][site.layer]
        for site in sites_of(model, found)
    }
    few = None if hidden is None else torch.arange(stream_width(model, found) or 0) < hidden
    _shorten_(model, found, _remains(model, found, masks), few)
    wide = all_head_widths(model, found)
    if widths is None or list(widths) == wide:
        return
    same_qk = all(a.qk == b.qk for a, b in zip(widths, wide, strict=True))
    sites = find_inner_sites(model, kinds=("v",) if same_qk else ("qk", "v"))
    masks = {site.name: _first(site, wide[site.layer], widths[site.layer]) for site in sites}
    _shorten_(model, found, _remains(model, found, masks, sites))


def _first(site: Site, wide: HeadWidths, narrow: HeadWidths) -> torch.Tensor:
    """A mask of the first dimensions of every head."""
    before, after = (w.qk if site.kind == "qk" else w.v for w in (wide, narrow))
    heads = [torch.arange(n) < m for n, m in zip(before, after, strict=True)]
    return torch.cat(heads)


def _remains(
    model: nn.Module,
    found: Anatomy,
    masks: Mapping[str, torch.Tensor],
    sites: Sequence[Site] | None = None,
) -> list[Remains]:
    given = sites_of(model, found) if sites is None else sites
    return find_remains(model, found, check_masks(given, masks))


def _widths(model: nn.Module, found: Anatomy, remains: Sequence[Remains]) -> list[HeadWidths]:
    """Of heads in every layer, once ``model`` is cut."""
    widths = all_head_widths(model, found)
    for left in remains:
        if left.widths is not None:
            widths[left.layer] = left.widths
    return widths


def _cuts(
    model: nn.Module,
    remains: Sequence[Remains],
    stream: ResidualStream | None,
    hidden: torch.Tensor | None,
) -> Replacements:
    """Shortened parameters by the id of the parameter each one replaces."""
    cuts = cut(model, remains)
    alike: frozenset[int] = frozenset()
    if stream is not None and hidden is not None:
        of_units = frozenset(cuts)  # where modules that share a weight may lose different ones
        alike = cut_hidden(cuts, model, stream, hidden) - of_units
    refuse_shared(model, cuts, alike)
    return cuts


def _shorten_(
    model: nn.Module,
    found: Anatomy,
    remains: Sequence[Remains],
    hidden: torch.Tensor | None = None,
) -> bool:
    """Put shortened parameters into the place of the long ones; whether there were any."""
    widths = _widths(model, found, remains)
    stream = None if hidden is None else residual_stream(model, found)
    cuts = _cuts(model, remains, stream, hidden)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in cuts:
                module.register_parameter(name, cuts[id(parameter)])
    refit(model, found, widths)
    if stream is not None and hidden is not None:
        refit_hidden(model, stream, int(hidden.sum()))
    return bool(cuts)


def _describe(model: Any, found: Anatomy, sites: Sequence[Site] | None = None) -> None:
    """Write what is left of a pruned model into its config: widths of heads and the number of
    hidden dimensions only where they may be other than the config says."""
    config = getattr(model, "config", None)
    inner = any(site.kind in ("qk", "v") for site in sites or ()) or describes_heads(config)
    widths = all_head_widths(model, found) if inner else None
    hidden = stream_width(model, found)
    if hidden == getattr(config, "hidden_size", None):
        hidden = None
    describe_(config, layer_units(model), widths, hidden)
