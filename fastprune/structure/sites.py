"""From a live model to its ordered list of Sites."""

from __future__ import annotations

from torch import nn

from fastprune.structure.declaration import Anatomy, Attention, Sublayer, anatomy
from fastprune.structure.empty import BiasOnly
from fastprune.structure.projection import as_projection, weight_view
from fastprune.structure.site import Site, SiteKind


def find_sites(model: nn.Module) -> list[Site]:
    """The sites of ``model`` in forward order: layer 0 attention, layer 0 FFN, layer 1 …

    Widths are read from the live modules, so pruned models, with other widths in every layer,
    work as well; a sublayer that lost all its units yields no site.

    Raises:
        UnsupportedModelError: no declaration fits, or a projection is not a plain one.
    """
    return sites_of(model, anatomy(model))


def sites_of(model: nn.Module, found: Anatomy) -> list[Site]:
    """:func:`find_sites` for an anatomy already at hand."""
    declaration = found.declaration
    sublayers: tuple[tuple[SiteKind, Sublayer], ...] = (
        ("attention", declaration.attention),
        ("ffn", declaration.ffn),
    )
    sites = (
        _site(model, block, layer, kind, sublayer)
        for layer, block in enumerate(found.blocks)
        for kind, sublayer in sublayers
    )
    return [site for site in sites if site is not None]


def layer_units(model: nn.Module) -> dict[SiteKind, list[int]]:
    """Units left in every layer, zeros included, by kind."""
    found = anatomy(model)
    units: dict[SiteKind, list[int]] = {
        "attention": [0] * len(found.blocks),
        "ffn": [0] * len(found.blocks),
    }
    for site in sites_of(model, found):
        units[site.kind][site.layer] = site.units
    return units


def _site(
    model: nn.Module, block: str, layer: int, kind: SiteKind, sublayer: Sublayer
) -> Site | None:
    name = f"{block}.{sublayer.output}"
    module = model.get_submodule(name)
    if isinstance(module, BiasOnly):
        return None
    outputs, columns = weight_view(as_projection(module, name)).shape
    group = _group(model, block, sublayer)
    units = columns // group
    weights, biases = outputs * group, 0
    for path in sublayer.inputs:
        projection = as_projection(model.get_submodule(f"{block}.{path}"), f"{block}.{path}")
        rows, inputs = weight_view(projection).shape
        weights += rows // units * inputs
        biases += 0 if projection.bias is None else rows // units
    return Site(
        name=name,
        layer=layer,
        kind=kind,
        units=units,
        group=group,
        outputs=outputs,
        residual=f"{block}.{sublayer.residual}",
        block=block,
        weights_per_unit=weights,
        biases_per_unit=biases,
    )


def _group(model: nn.Module, block: str, sublayer: Sublayer) -> int:
    """Columns per unit: one for a filter, those of all query heads sharing one key/value head."""
    if not isinstance(sublayer, Attention):
        return 1
    module = model.get_submodule(f"{block}.{sublayer.module}")
    return int(getattr(module, sublayer.head_width)) * int(
        getattr(module, "num_key_value_groups", 1)
    )
