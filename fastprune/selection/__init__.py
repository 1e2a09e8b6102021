"""Which units stay under a budget."""

from fastprune.selection.methods import METHODS, select_masks
from fastprune.selection.rearrange import rearrange_masks
from fastprune.selection.search import search_masks

__all__ = ["METHODS", "rearrange_masks", "search_masks", "select_masks"]
