"""Structured, retraining-free pruning of Hugging Face Transformers.

>>> import fastprune
>>> result = fastprune.prune("path/to/model", "train.tsv", "macs=0.5")
>>> result.save_pretrained("smaller")

Importing the package also teaches ``AutoModelFor….from_pretrained`` to rebuild pruned models.
"""

from __future__ import annotations

from fastprune.budget import Budget, parse_budget
from fastprune.budget.latency import LatencyTable
from fastprune.calibration import Statistics, collect_statistics
from fastprune.cofi import GateTraining
from fastprune.compaction import compact, load_pretrained, save_pretrained
from fastprune.comparison import Comparison, compare
from fastprune.data import Samples, load_samples
from fastprune.distributed import data_parallel
from fastprune.errors import FastpruneError
from fastprune.evaluation import evaluate, measure_latency, measure_latency_table
from fastprune.pareto import Sweep, sweep
from fastprune.pipeline import PruneResult, prune
from fastprune.structure import Site, find_sites
from fastprune.tokens.reduce import reduce_tokens
from fastprune.training import Training
from fastprune.training.finetuning import finetune
from fastprune.training.search import search_path
from fastprune.version import __version__

__all__ = [
    "Budget",
    "Comparison",
    "FastpruneError",
    "GateTraining",
    "LatencyTable",
    "PruneResult",
    "Samples",
    "Site",
    "Statistics",
    "Sweep",
    "Training",
    "__version__",
    "collect_statistics",
    "compact",
    "compare",
    "data_parallel",
    "evaluate",
    "find_sites",
    "finetune",
    "load_pretrained",
    "load_samples",
    "measure_latency",
    "measure_latency_table",
    "parse_budget",
    "prune",
    "reduce_tokens",
    "save_pretrained",
    "search_path",
    "sweep",
]
