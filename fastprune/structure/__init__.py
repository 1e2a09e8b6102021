"""Where a model can be pruned: sites, the declarations that find them, masks and proofs."""

from __future__ import annotations

from fastprune.structure import families as families  # registers the known families
from fastprune.structure.declaration import (
    Attention,
    Declaration,
    Sublayer,
    declare,
    declared_types,
)
from fastprune.structure.granularity import GRANULARITIES
from fastprune.structure.heads import HeadWidths, all_head_widths
from fastprune.structure.inner import find_inner_sites
from fastprune.structure.masking import masked
from fastprune.structure.projection import get_projection, set_projection
from fastprune.structure.site import Site, SiteKind
from fastprune.structure.sites import find_sites, layer_units

__all__ = [
    "GRANULARITIES",
    "Attention",
    "Declaration",
    "HeadWidths",
    "Site",
    "SiteKind",
    "Sublayer",
    "all_head_widths",
    "declare",
    "declared_types",
    "find_inner_sites",
    "find_sites",
    "get_projection",
    "layer_units",
    "masked",
    "set_projection",
]
