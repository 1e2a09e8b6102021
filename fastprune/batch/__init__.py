"""Many models: a job file in, every model pruned to all its budgets, whatever happens between."""

from fastprune.batch.run import run_batch
from fastprune.batch.summary import Row, Summary

__all__ = ["Row", "Summary", "run_batch"]
