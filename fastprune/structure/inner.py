"""Sites of dimensions inside heads: what solution paths prune besides filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.structure.declaration import Anatomy, Attention, anatomy
from fastprune.structure.heads import HeadWidths, head_widths, sharing_queries
from fastprune.structure.site import Site
from fastprune.structure.sites import input_size, sites_of

InnerKind = Literal["qk", "v", "ffn"]
_HEADS: tuple[Literal["qk", "v"], ...] = ("qk", "v")


def find_inner_sites(
    model: nn.Module,
    *,
    kinds: Sequence[InnerKind] = ("qk", "v", "ffn"),
    shared: bool = False,
) -> list[Site]:
    """Query-key dimensions, value dimensions and filters, layer by layer in this order.

    Removing a query-key dimension takes one row of the query and one of the key projection, a value
    dimension one row of the value projection and one column of the output projection. Masks
    multiply queries, so that logits are linear in them (:func:`masked` says why); values; and
    filters before the activation, or after it where zero does not stay zero or is multiplied by a
    gate anyway.

    Pass what you choose from to :func:`masked` and :func:`fastprune.compaction.compact` as
    ``sites``: :func:`find_sites` cuts the same sublayers into heads and filters.

    Args:
        model: any model with a declaration, pruned ones included.
        kinds: of sites that are wanted.
        shared: a unit is the same dimension of every head of a layer (the masks of SPP as
            published), and not one of each head.

    Raises:
        UnsupportedModelError: no declaration fits, or dimensions that cannot be removed one by one:
            those of fused projections, of rotated queries and keys, of shared keys and values, and
            shared ones where heads differ in width.
        FastpruneError: a kind that there is not.
    """
    unknown = set(kinds) - set(get_args(InnerKind))
    if unknown:
        raise FastpruneError(
            f"there are no inner sites of kind {sorted(unknown)[0]!r}; use "
            f"{', '.join(get_args(InnerKind))}"
        )
    found = anatomy(model)
    sites: list[Site | None] = []
    for whole in sites_of(model, found):
        if whole.kind == "attention":
            wanted = [kind for kind in _HEADS if kind in kinds]
            sites += [_dimensions(model, found, whole, kind, shared) for kind in wanted]
        elif "ffn" in kinds:
            sites.append(_filters(model, found, whole))
    return [site for site in sites if site is not None]


def _filters(model: Any, found: Anatomy, site: Site) -> Site:
    """Filters whose mask acts before the activation, where that comes to the same in the end."""
    declaration = found.declarations[site.layer]
    name = getattr(model.config, declaration.activation_config, None)
    before = isinstance(name, str) and not ACT2FN[name](torch.zeros(1)).item()
    if len(declaration.ffn.inputs) > 1 or not before:
        return site
    return replace(site, gates=(f"{site.block}.{declaration.ffn.inputs[0]}",))


def _dimensions(
    model: nn.Module, found: Anatomy, whole: Site, kind: Literal["qk", "v"], shared: bool
) -> Site | None:
    attention = found.declarations[whole.layer].heads
    _refuse(model, whole, attention, kind)
    widths = head_widths(model, whole.block, attention)
    counts = widths.qk if kind == "qk" else widths.v
    heads = _sharing(model, whole, widths) if shared else 1
    if not sum(counts):
        return None
    query, key, value = (f"{whole.block}.{path}" for path in attention.inputs)
    gates = (query, key) if kind == "qk" else (value,)
    sizes = [input_size(model, gate) for gate in gates]
    weights = sum(inputs for _, inputs, _ in sizes) + (whole.outputs if kind == "v" else 0)
    return replace(
        whole,
        name=f"{whole.block}.{attention.module}" if kind == "qk" else whole.name,
        kind=kind,
        units=sum(counts) // heads,
        group=1,
        weights_per_unit=heads * weights,
        biases_per_unit=heads * sum(bias for _, _, bias in sizes),
        pairs_per_unit=heads,
        heads=heads,
        gates=gates,
    )


def _sharing(model: nn.Module, whole: Site, widths: HeadWidths) -> int:
    if widths.even:
        return len(widths.v)
    raise UnsupportedModelError(
        f"the heads of {whole.block} differ in width, so they share no dimensions; choose them "
        "head by head, with --granularity dimensions (in Python shared=False)"
    )


def _refuse(model: Any, whole: Site, attention: Attention, kind: str) -> None:
    model_type = str(model.config.model_type)
    paths = [f"{whole.block}.{path}" for path in (*attention.inputs, attention.output)]
    if attention.fused or any(isinstance(model.get_submodule(path), Conv1D) for path in paths):
        raise UnsupportedModelError(
            f"{model_type!r} has no plain Linear for each of queries, keys and values, so their "
            "dimensions are not pruned one by one; prune heads and filters, with kinds=('ffn',)"
        )
    if kind == "qk" and attention.rotary:
        raise UnsupportedModelError(
            f"positions of {model_type!r} rotate pairs of query-key dimensions together, so "
            "they are not pruned one by one; leave them out, with kinds=('v', 'ffn')"
        )
    if sharing_queries(model.get_submodule(f"{whole.block}.{attention.module}")) > 1:
        raise UnsupportedModelError(
            f"heads of {model_type!r} share keys and values, whose dimensions are not pruned "
            "one by one; prune heads and filters, with kinds=('ffn',)"
        )
