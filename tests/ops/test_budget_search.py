"""budget_search, native and NumPy, against an exhaustive search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastprune.ops import budget_search, host

SEARCHES = ["numpy", "native"]


@pytest.fixture(params=SEARCHES)
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "numpy":
        monkeypatch.setattr(host, "_host", None)
    elif host._host is None:
        pytest.skip("fastprune._host was not built")
    return budget_search


def _exhaustive(heads: Any, filters: Any, head_cost: float, filter_cost: float, budget: float):  # type: ignore[no-untyped-def]
    """Every number of heads, units bought one by one."""
    best, best_importance = None, -1.0
    head_order = sorted(range(len(heads)), key=lambda i: (-heads[i], i))
    filter_order = sorted(range(len(filters)), key=lambda i: (-filters[i], i))
    for n in range(1 if len(heads) else 0, len(heads) + 1):
        spent = n * head_cost
        if spent > budget:
            continue
        m = 0
        while m < len(filters) and spent + (m + 1) * filter_cost <= budget:
            m += 1
        importance = sum(heads[i] for i in head_order[:n]) + sum(
            filters[i] for i in filter_order[:m]
        )
        if importance > best_importance:
            best, best_importance = (n, m), importance
    head_mask, filter_mask = np.zeros(len(heads), np.uint8), np.zeros(len(filters), np.uint8)
    if best is not None:
        head_mask[head_order[: best[0]]] = 1
        filter_mask[filter_order[: best[1]]] = 1
    return head_mask, filter_mask


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_exhaustive_search(search: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Integers: sums and prices are exact, and ties are frequent.
    heads = rng.integers(0, 6, rng.integers(0, 7)).astype(float)
    filters = rng.integers(0, 4, rng.integers(0, 15)).astype(float)
    head_cost, filter_cost = (float(v) for v in rng.integers(1, 6, 2))
    budgets = rng.integers(-1, 40, 8).astype(float)
    head_masks, filter_masks = search(heads, filters, head_cost, filter_cost, budgets)
    assert head_masks.dtype == filter_masks.dtype == np.uint8
    for row, budget in enumerate(budgets):
        expected = _exhaustive(heads, filters, head_cost, filter_cost, budget)
        np.testing.assert_array_equal(head_masks[row], expected[0])
        np.testing.assert_array_equal(filter_masks[row], expected[1])


def test_an_exactly_affordable_unit_is_bought(search: Any) -> None:
    # 0.1 + 2 * 0.1 > 0.3 in floating point.
    heads, filters = search([1.0], [1.0, 1.0, 1.0], 0.1, 0.1, [0.3, 0.30 - 1e-6])
    np.testing.assert_array_equal(filters, [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(heads, [[1], [1]])
    # The whole of a large model for its own price.
    heads, filters = search(
        np.ones(144), np.ones(36864), 1e9 / 3, 1e6 / 7, [144 * (1e9 / 3) + 36864 * (1e6 / 7)]
    )
    assert heads.all()
    assert filters.all()


def test_infeasible_budgets_are_empty_rows(search: Any) -> None:
    heads, filters = search([5.0, 4.0], [1.0], 10.0, 1.0, [9.0, 10.0, np.inf])
    np.testing.assert_array_equal(heads, [[0, 0], [1, 0], [1, 1]])
    np.testing.assert_array_equal(filters, [[0], [0], [1]])


def test_no_units_at_all(search: Any) -> None:
    heads, filters = search([], [], 1.0, 1.0, [3.0])
    assert heads.shape == filters.shape == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan], [1.0], 1, 1, [1.0]), "head_importance"),
        (([1.0], [[1.0]], 1, 1, [1.0]), "filter_importance"),
        (([1.0], [1.0], 0, 1, [1.0]), "costs must be positive"),
        (([1.0], [1.0], 1, 1, [np.nan]), "budgets"),
    ],
)
def test_bad_input_is_named(search: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(*arguments)
