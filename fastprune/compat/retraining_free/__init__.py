"""The functions of Kwon et al.'s repository, backed by fastprune's operations.

Names, signatures, shapes and semantics are those of ``WoosukKwon/retraining-free-pruning``. They
work on a CPU or a GPU, without CuPy, on any architecture :func:`fastprune.find_sites` understands.
Its defects are off unless ``bug_compatible=True``; docs/drop-in.md lists them one by one.

``python -m fastprune.compat.retraining_free main.py ARGS`` runs the repository's own ``main.py``
with these functions in place of its.
"""

from fastprune.compat.retraining_free.efficiency.latency import (
    PiecewiseLinearLatency,
    estimate_latency,
    fit_latency_fn,
    lookup_latency,
)
from fastprune.compat.retraining_free.efficiency.mac import (
    compute_mac,
    compute_mask_mac,
    mac_per_head,
    mac_per_neuron,
)
from fastprune.compat.retraining_free.prune.fisher import collect_mask_grads, compute_fisher_info
from fastprune.compat.retraining_free.prune.rearrange import greedy_rearrange, rearrange_mask
from fastprune.compat.retraining_free.prune.rescale import rescale_mask
from fastprune.compat.retraining_free.prune.search import search_latency, search_mac
from fastprune.compat.retraining_free.utils.linalg import closed_form_solver, lsmr_cupy_solver
from fastprune.compat.retraining_free.utils.schedule import get_pruning_schedule

__all__ = [
    "PiecewiseLinearLatency",
    "closed_form_solver",
    "collect_mask_grads",
    "compute_fisher_info",
    "compute_mac",
    "compute_mask_mac",
    "estimate_latency",
    "fit_latency_fn",
    "get_pruning_schedule",
    "greedy_rearrange",
    "lookup_latency",
    "lsmr_cupy_solver",
    "mac_per_head",
    "mac_per_neuron",
    "rearrange_mask",
    "rescale_mask",
    "search_latency",
    "search_mac",
]
