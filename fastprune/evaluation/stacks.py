"""Models to measure: the given one with other blocks, or with other numbers of units.

What is not cut shares its memory with the model it comes from, so that dozens of variants fit
beside it. Blocks of a stack are copies of one block, each with weights of its own: a device whose
caches hold all layers at once would be measured as faster than it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from fastprune.compaction.surgery import shrink_
from fastprune.structure.declaration import anatomy
from fastprune.structure.site import SiteKind
from fastprune.structure.sites import find_sites

Model = TypeVar("Model", bound=nn.Module)

_LEAST_WEIGHTS = 64 << 20
"""Bytes that the weights of a stack have at least, if the model has them: more than the share of a
cache that is theirs to keep."""


def stacked(model: Model, block: str) -> Model:
    """The model with some copies of one of its blocks in place of all of them.

    As many as do not fit into a cache, at least two, at most as many as it has.
    """
    blocks = anatomy(model).blocks
    template = model.get_submodule(block)
    size = sum(p.numel() * p.element_size() for p in template.parameters())
    count = min(len(blocks), max(2, -(-_LEAST_WEIGHTS // size)))
    layers = nn.ModuleList(copy.deepcopy(template) for _ in range(count))
    container = model.get_submodule(blocks[0].rpartition(".")[0])
    return copy.deepcopy(model, {**_tensors(model), id(container): layers})


def narrowed(model: Model, units: Mapping[SiteKind, int]) -> Model:
    """The model with the first ``units[kind]`` units of every site of ``kind``; others stay."""
    small = copy.deepcopy(model, _tensors(model))
    masks = {
        site.name: torch.arange(site.units) < units[site.kind]
        for site in find_sites(model)
        if site.kind in units
    }
    shrink_(small, masks)
    return small


def _tensors(model: nn.Module) -> dict[int, Any]:
    """What a copy takes over as it is, in the form of a memo for ``copy.deepcopy``."""
    return {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
