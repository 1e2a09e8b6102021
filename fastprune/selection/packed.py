"""Packed vectors: the units of all sites side by side, the layout the native operations read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.structure.site import Site


def split_packed(packed: Tensor, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Cut the last dimension of ``packed`` into one view per site, keyed by site name."""
    parts = packed.split([site.units for site in sites], dim=-1)
    return {site.name: part for site, part in zip(sites, parts, strict=True)}


def kind_columns(sites: Sequence[Site], kind: str) -> Tensor:
    """Positions in a packed vector that belong to sites of ``kind``: int64."""
    of_kind = torch.tensor([site.kind == kind for site in sites], dtype=torch.bool)
    sizes = torch.tensor([site.units for site in sites])
    return of_kind.repeat_interleave(sizes).nonzero().squeeze(1)


def unit_counts(mask: Tensor, sites: Sequence[Site]) -> list[int]:
    """Kept units of each site of one packed mask."""
    return [int(part.count_nonzero()) for part in split_packed(mask, sites).values()]
