"""Ways to prune, side by side on the same model and data."""

from fastprune.comparison.comparison import Comparison
from fastprune.comparison.run import compare
from fastprune.comparison.trial import Cell, Trial
from fastprune.comparison.ways import Way

__all__ = ["Cell", "Comparison", "Trial", "Way", "compare"]
