"""Which units stay under a budget."""

from fastprune.selection.chooser import Chooser, Evidence
from fastprune.selection.methods import METHODS, Method
from fastprune.selection.nested import Nested
from fastprune.selection.paths import Paths, RemovalPath
from fastprune.selection.ranked import Ranked
from fastprune.selection.rearrange import rearrange_masks
from fastprune.selection.search import search_masks

__all__ = [
    "METHODS",
    "Chooser",
    "Evidence",
    "Method",
    "Nested",
    "Paths",
    "Ranked",
    "RemovalPath",
    "rearrange_masks",
    "search_masks",
]
