"""Latency as a budget: a table of what sublayers take, measured where they will run."""

from fastprune.budget.latency.place import Place
from fastprune.budget.latency.sublayer import Shape, SublayerLatency
from fastprune.budget.latency.table import LatencyTable
from fastprune.budget.latency.workload import Workload

__all__ = [
    "LatencyTable",
    "Place",
    "Shape",
    "SublayerLatency",
    "Workload",
]
