"""Scores and latency of models."""

from fastprune.evaluation.evaluate import EmbeddingFidelity, embed, embedding_fidelity, evaluate
from fastprune.evaluation.latency import measure_latency
from fastprune.evaluation.latency_table import measure_latency_table
from fastprune.evaluation.metrics import LOWER_IS_BETTER, METRICS, resolve_metric

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "EmbeddingFidelity",
    "embed",
    "embedding_fidelity",
    "evaluate",
    "measure_latency",
    "measure_latency_table",
    "resolve_metric",
]
