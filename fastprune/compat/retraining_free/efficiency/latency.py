"""Latency tables, and the piecewise linear function they are searched through.

A table is a list: entry ``n - 1`` is the latency of a sublayer with ``n`` heads or filters, in any
one unit of time. The original's ``generate_lut.py`` writes two of them, ``mha_lut.pt`` and
``ffn_lut.pt``, with ``torch.save``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastprune.errors import BudgetError

Table = Sequence[float] | NDArray[Any] | Tensor


def lookup_latency(lut: Table, mask: Tensor) -> float:
    """The latency of one sublayer: its entry in the table, and 0 where no unit is left.

    Args:
        lut: the table.
        mask: ``[units]``, nonzero = kept.

    Raises:
        BudgetError: a table with fewer entries than units are kept.
    """
    kept = int((mask != 0).sum())
    return float(table_values(lut, at_least=kept)[kept - 1]) if kept else 0.0


def estimate_latency(
    mha_lut: Table, ffn_lut: Table, head_mask: Tensor, neuron_mask: Tensor
) -> float:
    """The latency of a masked model: the sum over its sublayers.

    Args:
        mha_lut, ffn_lut: tables of an attention sublayer and of an FFN.
        head_mask: ``[layers, heads]``, nonzero = kept.
        neuron_mask: ``[layers, filters]``, nonzero = kept.

    Raises:
        BudgetError: a table that is too short for the masks.
    """
    pairs = ((mha_lut, head_mask), (ffn_lut, neuron_mask))
    return sum(lookup_latency(lut, row) for lut, mask in pairs for row in mask)


@dataclass(frozen=True)
class PiecewiseLinearLatency:
    """``c`` up to ``threshold`` units, ``c + slope * (units - threshold)`` beyond."""

    threshold: int
    c: float
    slope: float


def fit_latency_fn(lut: Table) -> PiecewiseLinearLatency:
    """The best of the least-squares fits that each threshold allows (Kwon et al. 2022, 4.1).

    Of equally good ones the smallest threshold. The slope is never negative.

    Raises:
        BudgetError: an empty table, or latencies that are not positive and finite.
    """
    values = table_values(lut, at_least=1)
    best, least = None, np.inf
    for threshold in range(1, len(values) + 1):
        flat, rest = values[:threshold], values[threshold:]
        c = flat.sum() / threshold
        steps = np.arange(1, len(rest) + 1)
        slope = max((steps * (rest - c)).sum() / (steps * steps).sum(), 0.0) if len(rest) else 0.0
        fitted = np.concatenate([np.full(threshold, c), slope * steps + c])
        error = np.square(values - fitted).sum()
        if error < least:
            best, least = PiecewiseLinearLatency(threshold, float(c), float(slope)), error
    assert best is not None
    return best


def table_values(lut: Table, *, at_least: int) -> NDArray[np.float64]:
    """A table as float64 ``[entries]``.

    Raises:
        BudgetError: not a list of positive numbers, or too short.
    """
    values = np.asarray(lut.cpu() if isinstance(lut, Tensor) else lut, dtype=np.float64)
    if values.ndim != 1 or not (np.isfinite(values) & (values > 0)).all():
        raise BudgetError(
            "a latency table must be a list of positive numbers, entry n - 1 that of n units; "
            "measure it again with the original's generate_lut.py"
        )
    if len(values) < at_least:
        raise BudgetError(
            f"a latency table has {len(values)} entries, but {at_least} are needed, one per head "
            "or filter of a layer; measure it for this model's config"
        )
    return values
