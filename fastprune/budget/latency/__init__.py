"""Latency as a budget: a table of what sublayers take, measured where they will run."""

from fastprune.budget.latency.measure import measure_latency_table
from fastprune.budget.latency.place import Place
from fastprune.budget.latency.storage import check_table_path
from fastprune.budget.latency.sublayer import Shape, SublayerLatency
from fastprune.budget.latency.table import LatencyTable

__all__ = [
    "LatencyTable",
    "Place",
    "Shape",
    "SublayerLatency",
    "check_table_path",
    "measure_latency_table",
]
