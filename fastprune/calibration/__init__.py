"""What the data says about a model: mask gradients, summed up as Fisher information."""

from fastprune.calibration.collect import collect_statistics
from fastprune.calibration.statistics import Statistics

__all__ = ["Statistics", "collect_statistics"]
