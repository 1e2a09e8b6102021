"""How finely attention is cut into units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from fastprune.structure.inner import find_inner_sites
from fastprune.structure.site import Site
from fastprune.structure.sites import find_sites

GRANULARITIES: Mapping[str, Callable[[nn.Module], list[Site]]] = {
    "heads": find_sites,
    "dimensions": find_inner_sites,
    "shared-dimensions": partial(find_inner_sites, shared=True),
}
"""``heads``: whole ones. ``dimensions``: query-key and value dimensions, each head's own.
``shared-dimensions``: the same ones of all heads of a layer. Filters are units in all of them."""
