"""The budgets of pruning in several steps."""

from __future__ import annotations


def get_pruning_schedule(target: float, num_iter: int) -> list[float]:
    """Shares that shrink by equal factors, ``num_iter`` of them, and end at ``target``."""
    return [target ** (i / num_iter) for i in range(1, num_iter)] + [target]
