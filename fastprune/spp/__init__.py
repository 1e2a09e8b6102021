"""SPP: the order in which units enter a solution path, for any number of budgets at once."""

from fastprune.spp.order import FISHER_STEPS, PASS_STEPS, entry_order
from fastprune.spp.passes import divergence_gradient
from fastprune.spp.path import SolutionPaths, follow_paths
from fastprune.spp.quadratic import FisherLoss

__all__ = [
    "FISHER_STEPS",
    "PASS_STEPS",
    "FisherLoss",
    "SolutionPaths",
    "divergence_gradient",
    "entry_order",
    "follow_paths",
]
