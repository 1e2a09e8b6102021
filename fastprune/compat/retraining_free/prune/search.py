"""Mask search under a budget of MACs or of latency."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastprune.budget import round_up
from fastprune.compat.retraining_free.efficiency.latency import (
    Table,
    fit_latency_fn,
    table_values,
)
from fastprune.compat.retraining_free.efficiency.mac import (
    compute_mac,
    mac_per_head,
    mac_per_neuron,
)
from fastprune.compat.retraining_free.prune.fisher import compute_fisher_info
from fastprune.compat.retraining_free.prune.latency_search import (
    Sublayers,
    released_search,
    search_sublayers,
)
from fastprune.compat.retraining_free.prune.split import Array, best_split, descending
from fastprune.errors import BudgetError, DataError, NumericalError
from fastprune.ops import budget_search


@torch.no_grad()
def search_mac(
    config: Any,
    head_grads: Tensor,
    neuron_grads: Tensor,
    seq_len: float,
    mac_constraint: float,
    *,
    bug_compatible: bool = False,
) -> tuple[Tensor, Tensor]:
    """The heads and filters with the most importance that a share of the MACs pays for.

    Kwon et al. 2022, algorithm 1: keep the n most important heads, spend the rest on filters, and
    take the n >= 1 that keeps the most.

    Args:
        config: of the model; ``num_hidden_layers``, ``num_attention_heads``, ``hidden_size`` and
            ``intermediate_size`` are read.
        head_grads: ``[rows, layers, heads]``.
        neuron_grads: ``[rows, layers, filters]``.
        seq_len: tokens of a sample.
        mac_constraint: share of the MACs, below 1.
        bug_compatible: let heads alone exceed the budget, with no filters beside them.

    Returns:
        ``(head_mask [layers, heads], neuron_mask [layers, filters])``, float32 zeros and ones on
        the gradients' device.

    Raises:
        BudgetError: a share that is not below 1, or that not even one head fits into.
        DataError: gradients that do not belong to the config.
    """
    heads, neurons = _importance(config, head_grads, neuron_grads)
    size = config.hidden_size // config.num_attention_heads
    per_head = mac_per_head(seq_len, config.hidden_size, size)
    per_neuron = mac_per_neuron(seq_len, config.hidden_size)
    (layers, width), filters = heads.shape, neurons.shape[1]
    dense = compute_mac([width] * layers, [filters] * layers, seq_len, config.hidden_size, size)
    limit = _share(mac_constraint) * dense
    if bug_compatible:
        kept = _overdrawn_search(heads.ravel(), neurons.ravel(), per_head, per_neuron, limit)
    else:
        if limit < per_head:
            raise _unreachable(mac_constraint, per_head / dense)
        rows = budget_search(
            heads.ravel(), neurons.ravel(), per_head, per_neuron, np.array([limit])
        )
        kept = rows[0][0], rows[1][0]
    return _mask(kept[0], head_grads), _mask(kept[1], neuron_grads)


@torch.no_grad()
def search_latency(
    config: Any,
    head_grads: Tensor,
    neuron_grads: Tensor,
    latency_constraint: float,
    mha_lut: Table,
    ffn_lut: Table,
    *,
    bug_compatible: bool = False,
) -> tuple[Tensor, Tensor]:
    """The heads and filters with the most importance that a share of the latency pays for.

    Kwon et al. 2022, section 4.1: each table is fitted by a constant and a line. Whole sublayers
    go, the least important first; those that stay keep as many units as cost no more than one;
    what is left is spent on further units of the whole model. The budget is met by the fits.

    Args:
        config: of the model; ``num_hidden_layers``, ``num_attention_heads`` and
            ``intermediate_size`` are read.
        head_grads: ``[rows, layers, heads]``.
        neuron_grads: ``[rows, layers, filters]``.
        latency_constraint: share of the latency, below 1.
        mha_lut: table of an attention sublayer, one entry per number of heads.
        ffn_lut: table of an FFN, one entry per number of filters.
        bug_compatible: search as the original does, which is not what was meant (docs/drop-in.md).

    Returns:
        ``(head_mask [layers, heads], neuron_mask [layers, filters])``, float32 zeros and ones on
        the gradients' device.

    Raises:
        BudgetError: a share that is not below 1 or cannot be reached, or an unusable table.
        DataError: gradients that do not belong to the config.
    """
    heads, neurons = _importance(config, head_grads, neuron_grads)
    share = _share(latency_constraint)
    dense = sum(
        len(importance) * table_values(lut, at_least=importance.shape[1])[importance.shape[1] - 1]
        for importance, lut in ((heads, mha_lut), (neurons, ffn_lut))
    )
    attention = Sublayers(heads, fit_latency_fn(mha_lut))
    ffn = Sublayers(neurons, fit_latency_fn(ffn_lut))
    search = released_search if bug_compatible else search_sublayers
    kept = search(attention, ffn, share * dense)
    if kept is None:
        raise _unreachable(latency_constraint, (attention.fit.c + ffn.fit.c) / dense)
    return _mask(kept[0], head_grads), _mask(kept[1], neuron_grads)


def _overdrawn_search(
    heads: Array, neurons: Array, per_head: float, per_neuron: float, limit: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """As in the original, where heads that cost too much leave zero filters, not none to choose."""
    head_order, neuron_order = descending(heads), descending(neurons)
    costs = per_head * np.arange(len(heads) + 1)
    affordable = np.trunc((limit - costs) / per_neuron).clip(0, len(neurons)).astype(np.int64)
    affordable[0] = -1  # the original starts with one head
    best = best_split(heads[head_order], neurons[neuron_order], affordable)
    assert best is not None
    return _kept(head_order[: best.heads], heads), _kept(neuron_order[: best.filters], neurons)


def _kept(units: NDArray[np.int64], importance: Array) -> NDArray[np.uint8]:
    mask = np.zeros(importance.size, dtype=np.uint8)
    mask[units] = 1
    return mask


def _mask(kept: NDArray[np.uint8], grads: Tensor) -> Tensor:
    return torch.from_numpy(kept).view(grads.shape[1:]).to(grads.device, torch.float32)


def _importance(config: Any, head_grads: Tensor, neuron_grads: Tensor) -> tuple[Array, Array]:
    """Fisher information of heads and filters: float64 [layers, units] each."""
    layers = config.num_hidden_layers
    shapes = (layers, config.num_attention_heads), (layers, config.intermediate_size)
    for grads, shape in zip((head_grads, neuron_grads), shapes, strict=True):
        if grads.dim() != 3 or tuple(grads.shape[1:]) != shape:
            raise DataError(
                f"gradients {list(grads.shape)} do not belong to this config; they must be "
                f"[rows, {shape[0]}, {shape[1]}], as from collect_mask_grads with its model"
            )
    heads, neurons = (
        compute_fisher_info(grads).double().cpu().numpy() for grads in (head_grads, neuron_grads)
    )
    if not (np.isfinite(heads).all() and np.isfinite(neurons).all()):
        raise NumericalError(
            "a mask gradient is not finite; look for damaged weights or samples before searching"
        )
    return heads, neurons


def _share(constraint: float) -> float:
    if not 0 < constraint < 1:
        raise BudgetError(f"the constraint must lie between 0 and 1, not be {constraint}")
    return constraint


def _unreachable(constraint: float, smallest: float) -> BudgetError:
    return BudgetError(
        f"a constraint of {constraint} cannot be reached: the smallest for this model is "
        f"{round_up(smallest):g}"
    )
