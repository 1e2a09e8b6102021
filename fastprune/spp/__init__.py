"""SPP: the order in which units enter a solution path, for any number of budgets at once."""

from fastprune.spp.order import entry_order
from fastprune.spp.path import SolutionPaths, follow_paths
from fastprune.spp.quadratic import FisherLoss

__all__ = ["FisherLoss", "SolutionPaths", "entry_order", "follow_paths"]
