"""K-prune (Park et al. 2024): selection and tuning in one walk, as the anchor to compare with."""

from fastprune.kprune.prune import KPruned, kprune
from fastprune.kprune.reference import Reference

__all__ = ["KPruned", "Reference", "kprune"]
