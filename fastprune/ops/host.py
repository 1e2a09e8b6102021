"""Host code over NumPy arrays: the budget search of Kwon et al. 2022, the allocation of a budget to
sites, and build information."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastprune.ops import knapsack
from fastprune.ops.checks import require

try:
    if os.environ.get("FASTPRUNE_NATIVE", "on").lower() == "off":
        raise ImportError("FASTPRUNE_NATIVE=off")
    import fastprune._host as _host
except ImportError:
    _host = None  # type: ignore[assignment]

Masks = NDArray[np.uint8]


def build_info() -> dict[str, str] | None:
    """Compilers, flags, CUDA architectures and torch version of the build; None if not built."""
    return dict(_host.build_info()) if _host is not None else None


def budget_search(
    head_importance: NDArray[np.float64],
    filter_importance: NDArray[np.float64],
    head_cost: float,
    filter_cost: float,
    budgets: NDArray[np.float64],
) -> tuple[Masks, Masks]:
    """Best split of each budget between heads and filters (Kwon et al. 2022, algorithm 1).

    For every number of heads ``n >= 1`` (only ``n = 0`` when there are no heads) that fits the
    budget, the ``n`` most important heads are kept and the rest of the budget goes to the most
    important filters; the ``n`` with the largest kept importance wins (ties: the smaller ``n``).

    Args:
        head_importance: ``[H]`` importance of every head of the model; ``H`` may be 0.
        filter_importance: ``[F]`` importance of every filter; ``F`` may be 0.
        head_cost, filter_cost: price of one unit, positive, in the unit of ``budgets``.
        budgets: ``[B]`` what may be spent.

    Returns:
        ``(heads [B, H], filters [B, F])``, uint8, 1 = kept. The row of a budget that not even one
        head fits is all zeros.

    Raises:
        ArgumentError: an input that is not one-dimensional, not finite, or a price that is not
            positive.
    """
    heads, filters, limits = (
        np.ascontiguousarray(values, dtype=np.float64)
        for values in (head_importance, filter_importance, budgets)
    )
    for name, values in (("head_importance", heads), ("filter_importance", filters)):
        finite = values.ndim == 1 and bool(np.isfinite(values).all())
        require(finite, f"{name} must be a one-dimensional array of finite numbers")
    numbers = limits.ndim == 1 and not np.isnan(limits).any()
    require(numbers, "budgets must be a one-dimensional array without NaN")
    priced = 0 < head_cost < np.inf and 0 < filter_cost < np.inf
    require(priced, f"costs must be positive, not {head_cost} and {filter_cost}")
    search = _host.budget_search if _host is not None else _budget_search
    return search(heads, filters, head_cost, filter_cost, limits)


def allocate(
    errors: Sequence[NDArray[np.float64]],
    costs: Sequence[NDArray[np.float64]],
    budgets: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How much every site keeps: one option each, the least total error that a budget allows.

    Minimises ``sum_s errors[s][k_s]`` subject to ``sum_s costs[s][k_s] <= budget``, up to a
    relative 1e-9 of the budget: the multiple-choice knapsack problem (Sinha & Zoltners 1979).
    The lower convex hull of every site's (cost, error) gives a Lagrange multiplier, a bound and a
    first choice; a search over the options that their reduced costs leave within the gap finds the
    best one (``csrc/host/allocate.h``). Options need be neither convex nor monotone.

    Ties: an option that another of its site equals or beats in both error and cost is never
    chosen; of equal options the lower index counts. Of several best choices the first found is
    returned, always the same one for the same build, but with and without the native library they
    may differ.

    Args:
        errors: ``[K_s]`` for each site ``s``: the error of every option, finite, of any sign.
        costs: ``[K_s]`` for each site ``s``: the price of every option, finite and not negative,
            in the unit of ``budgets``.
        budgets: ``[B]`` what may be spent; infinity is allowed.

    Returns:
        ``(chosen [B, S] int64, exact [B] bool)``: the option of every site, -1 throughout the row
        of a budget that even the cheapest options exceed; and whether the row is proved optimal,
        up to 1e-12 of the sum of the absolute errors. The proof is given up where more than 2**20
        candidates meet at one site, as the unlike costs of dense latency tables may. The row then
        holds the best choice found, which fits, and is no worse than that of the hulls.

    Raises:
        ArgumentError: as many costs as errors are not given, a site without options, numbers that
            are not finite, or negative costs.
    """
    require(
        len(errors) == len(costs),
        f"errors has {len(errors)} sites, costs {len(costs)}: give one array of each per site",
    )
    error_rows, cost_rows = (
        [np.asarray(row, dtype=np.float64, order="C") for row in rows] for rows in (errors, costs)
    )
    for site, (error, cost) in enumerate(zip(error_rows, cost_rows, strict=True)):
        require(
            error.ndim == 1 and error.shape == cost.shape,
            f"errors[{site}] and costs[{site}] must be one-dimensional and equally long, "
            f"not of shapes {list(error.shape)} and {list(cost.shape)}",
        )
        require(len(error) > 0, f"site {site} has no options: give at least one, or leave it out")
        require(
            bool(np.isfinite(error).all()),
            f"errors[{site}] must be finite: leave out options without a prediction",
        )
        require(
            bool(np.isfinite(cost).all() and (cost >= 0).all()),
            f"costs[{site}] must be finite and not negative: leave out options without a price",
        )
    limits = np.asarray(budgets, dtype=np.float64, order="C")
    numbers = limits.ndim == 1 and not np.isnan(limits).any()
    require(numbers, "budgets must be a one-dimensional array without NaN")
    solve = _host.allocate if _host is not None else knapsack.allocate
    return solve(error_rows, cost_rows, limits)


_SLACK = 1e-9  # relative: a unit that exactly fits is not lost to rounding


def _budget_search(
    heads: NDArray[np.float64],
    filters: NDArray[np.float64],
    head_cost: float,
    filter_cost: float,
    budgets: NDArray[np.float64],
) -> tuple[Masks, Masks]:
    head_order = np.argsort(-heads, kind="stable")
    filter_order = np.argsort(-filters, kind="stable")
    head_total = np.concatenate([[0.0], np.cumsum(heads[head_order])])
    filter_total = np.concatenate([[0.0], np.cumsum(filters[filter_order])])
    counts = np.arange(min(1, len(heads)), len(heads) + 1)
    head_masks = np.zeros((len(budgets), len(heads)), dtype=np.uint8)
    filter_masks = np.zeros((len(budgets), len(filters)), dtype=np.uint8)
    for row, budget in enumerate(budgets):
        slack = _SLACK * abs(budget)
        left = budget - counts * head_cost
        feasible = left >= -slack
        if not feasible.any():
            continue
        left = left[feasible].clip(0.0)
        affordable = np.floor((left + slack) / filter_cost).clip(0, len(filters)).astype(np.int64)
        best = int(np.argmax(head_total[counts[feasible]] + filter_total[affordable]))
        head_masks[row, head_order[: counts[feasible][best]]] = 1
        filter_masks[row, filter_order[: affordable[best]]] = 1
    return head_masks, filter_masks
