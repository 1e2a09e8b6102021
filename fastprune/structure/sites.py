"""From a live model to its ordered list of Sites."""

from __future__ import annotations

from torch import nn

from fastprune.structure.declaration import Anatomy, Attention, Sublayer, anatomy
from fastprune.structure.empty import BiasOnly, ZeroOutputs
from fastprune.structure.heads import all_head_widths, head_widths, sharing_queries
from fastprune.structure.projection import as_projection, weight_view
from fastprune.structure.site import Site, SiteKind


def find_sites(model: nn.Module) -> list[Site]:
    """The sites of ``model`` in forward order: layer 0 attention, layer 0 FFN, layer 1 …

    Widths are read from the live modules, so pruned models, with other widths in every layer,
    work as well; a sublayer that lost all its units yields no site. Heads of one layer that differ
    in width are one unit together, because the units of a site are alike.

    Raises:
        UnsupportedModelError: no declaration fits, or a projection is not a plain one.
    """
    return sites_of(model, anatomy(model))


def sites_of(model: nn.Module, found: Anatomy) -> list[Site]:
    """:func:`find_sites` for an anatomy already at hand."""
    kinds: tuple[SiteKind, ...] = ("attention", "ffn")
    sites = (
        _site(model, found, layer, kind) for layer in range(len(found.blocks)) for kind in kinds
    )
    return [site for site in sites if site is not None]


def layer_units(model: nn.Module) -> dict[SiteKind, list[int]]:
    """Heads (key/value groups) and filters left in every layer, zeros included, by kind."""
    found = anatomy(model)
    filters = [0] * len(found.blocks)
    for site in sites_of(model, found):
        if site.kind == "ffn":
            filters[site.layer] = site.units
    heads = [len(widths.v) for widths in all_head_widths(model, found)]
    return {"attention": heads, "ffn": filters}


def _site(model: nn.Module, found: Anatomy, layer: int, kind: SiteKind) -> Site | None:
    block, declaration = found.blocks[layer], found.declarations[layer]
    sublayer: Sublayer | None = declaration.ffn if kind == "ffn" else declaration.attention
    if sublayer is None:
        return None
    name = f"{block}.{sublayer.output}"
    module = model.get_submodule(name)
    if isinstance(module, BiasOnly):
        return None
    outputs, columns = weight_view(as_projection(module, name)).shape
    units, pairs, window = columns, 0, None
    if isinstance(sublayer, Attention):
        heads = head_widths(model, block, sublayer)
        units = len(heads.v) if heads.even else 1
        queries = sharing_queries(model.get_submodule(f"{block}.{sublayer.module}"))
        pairs = queries * sum((*heads.qk, *heads.v))
        if sublayer.window:
            window = int(getattr(model.get_submodule(block), sublayer.window)) ** 2
    weights, biases = outputs * columns, 0
    for path in sublayer.inputs:
        rows, inputs, bias = input_size(model, f"{block}.{path}")
        weights += rows * inputs
        biases += rows * bias
    tokens = declaration.tokens(model.config, found.stages[layer])
    return Site(
        name=name,
        layer=layer,
        kind=kind,
        units=units,
        group=columns // units,
        outputs=outputs,
        residual=f"{block}.{sublayer.residual}",
        block=block,
        weights_per_unit=weights // units,
        biases_per_unit=biases // units,
        pairs_per_unit=pairs // units,
        token_share=tokens.share,
        fixed_tokens=tokens.fixed,
        window=window,
        sample_axis=declaration.sample_axis,
    )


def input_size(model: nn.Module, path: str) -> tuple[int, int, bool]:
    """Outputs and inputs of a projection, and whether it has a bias; nothing of a lost one."""
    module = model.get_submodule(path)
    if isinstance(module, ZeroOutputs):
        return 0, 0, False
    projection = as_projection(module, path)
    rows, inputs = weight_view(projection).shape
    return rows, inputs, projection.bias is not None
