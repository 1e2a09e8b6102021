"""Many budgets from one pass: the curve of what a model keeps at what cost."""

from fastprune.pareto.curve import Sweep
from fastprune.pareto.point import Point
from fastprune.pareto.sweep import DEFAULT_BUDGETS, sweep

__all__ = ["DEFAULT_BUDGETS", "Point", "Sweep", "sweep"]
