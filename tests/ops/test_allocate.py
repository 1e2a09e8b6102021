"""allocate, native and NumPy, against every combination of options."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastprune.ops import allocate, host, knapsack

SOLVERS = ["numpy", "native"]
SLACK = 1e-9  # of the budget; part of the contract


@pytest.fixture(params=SOLVERS)
def solve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "numpy":
        monkeypatch.setattr(host, "_host", None)
    elif host._host is None:
        pytest.skip("fastprune._host was not built")
    return allocate


def total(values: Any, row: Any) -> float:
    return float(sum(site[k] for site, k in zip(values, row, strict=True)))


def small_problem(seed: int) -> tuple[list[Any], list[Any]]:
    """Up to four sites of up to six options: whole numbers (many ties) or real ones, sorted (as
    predictions are) or in no order at all."""
    rng = np.random.default_rng(seed)
    errors, costs = [], []
    for k in rng.integers(1, 7, rng.integers(1, 5)):
        error = rng.integers(-3, 8, k).astype(float) if seed % 2 else rng.normal(size=k)
        cost = rng.integers(0, 6, k).astype(float) if seed % 2 else rng.random(k)
        errors.append(np.sort(error)[::-1] if seed % 3 else error)
        costs.append(np.sort(cost) if seed % 3 else cost)
    return errors, costs


@pytest.mark.parametrize("block", range(10))
def test_agrees_with_every_combination(solve: Any, block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        errors, costs = small_problem(seed)
        combinations = list(itertools.product(*(range(len(e)) for e in errors)))
        all_errors = np.array([total(errors, row) for row in combinations])
        all_costs = np.array([total(costs, row) for row in combinations])
        rng = np.random.default_rng(seed)
        least = all_costs.min()
        budgets = np.concatenate(
            [
                rng.choice(all_costs, 5),  # fits exactly
                rng.random(4) * all_costs.max(),
                [least, least * (1 - 1e-6) - 1e-6, -1.0, 0.0, np.inf, -np.inf],
            ]
        )
        chosen, exact = solve(errors, costs, budgets)
        assert chosen.dtype == np.int64
        assert chosen.shape == (len(budgets), len(errors))
        assert exact.dtype == bool
        assert exact.all()
        for row, budget in zip(chosen, budgets, strict=True):
            limit = budget + SLACK * abs(budget) if np.isfinite(budget) else budget
            fits = all_costs <= limit
            if not fits.any():
                assert (row == -1).all()
                continue
            assert total(costs, row) <= limit
            # Promised: 1e-12 of the sum of |error|, which four sites keep below 32.
            assert total(errors, row) <= all_errors[fits].min() + 1e-12 * 32


def by_dynamic_programming(errors: Any, costs: Any, budget: int) -> float:
    """The least total error, for whole costs: one step of memory per unit of budget."""
    best = np.zeros(budget + 1)
    for error, cost in zip(errors, costs, strict=True):
        extended = np.full(budget + 1, np.inf)
        for e, c in zip(error, cost.astype(int), strict=True):
            if c <= budget:
                extended[c:] = np.minimum(extended[c:], best[: budget + 1 - c] + e)
        best = extended
    return float(best[budget])


def curve(kind: str, units: int, rng: np.random.Generator) -> Any:
    """A site's error after keeping 0, 1, ... units."""
    kept = np.arange(units + 1) / units
    weight = rng.lognormal()
    if kind == "convex":
        return weight * (1 - kept) ** rng.uniform(1.5, 4)
    if kind == "nonconvex":
        losses = rng.exponential(size=units + 1) * (1 + np.sin(kept * 12 + rng.uniform(0, 6)))
        return weight * np.cumsum(losses)[::-1] / losses.sum()
    if kind == "noisy":
        return weight * ((1 - kept) ** 2 + 0.02 * rng.normal(size=units + 1))
    if kind == "plateau":
        return weight * np.maximum(0.0, rng.uniform(0.2, 0.8) - kept) ** 1.5
    if kind == "steps":
        return np.sort(rng.integers(0, 9, units + 1))[::-1].astype(float)
    if kind == "straight":
        return 1 - kept
    return 1 / (1 + 20 * kept)  # equal


KINDS = ["convex", "nonconvex", "noisy", "plateau", "steps", "equal", "straight"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_dynamic_programming(solve: Any, kind: str, seed: int) -> None:
    """Heads and filters at two prices with no large common divisor."""
    rng = np.random.default_rng(seed)
    shapes = [(60, 7), (60, 7), (45, 7), (60, 7)] + [(6, 53)] * 4
    errors = [curve(kind, units, rng) for units, _ in shapes]
    costs = [np.arange(units + 1) * float(price) for units, price in shapes]
    dense = sum(units * price for units, price in shapes)
    budgets = np.array([0, 13, dense // 5, dense // 2, dense // 2 + 1, dense * 4 // 5, dense])
    chosen, exact = solve(errors, costs, budgets)
    assert exact.all()
    for row, budget in zip(chosen, budgets, strict=True):
        assert total(costs, row) <= budget
        # 1e-12 of the sum of |error|, for eight sites below 100.
        best = by_dynamic_programming(errors, costs, int(budget))
        assert total(errors, row) == pytest.approx(best, rel=0, abs=1e-10)


@pytest.mark.skipif(host._host is None, reason="fastprune._host was not built")
@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("prices", ["units", "latencies"])
def test_native_and_numpy_find_the_same_error(kind: str, prices: str) -> None:
    rng = np.random.default_rng(3)
    widths = [256] * 6 + [12] * 6
    errors = [curve(kind, units, rng) for units in widths]
    if prices == "units":
        costs = [np.arange(units + 1) * (1.5 if units == 256 else 200 / 3) for units in widths]
    else:
        costs = [np.append(0.0, np.cumsum(rng.exponential(size=units))) for units in widths]
    budgets = np.linspace(0.1, 0.9, 4) * sum(c[-1] for c in costs)
    results = [host._host.allocate(errors, costs, budgets)]
    results.append(knapsack.allocate(errors, costs, budgets))
    for row, other, *exact in zip(*(r[0] for r in results), *(r[1] for r in results), strict=True):
        assert all(exact)
        # Each is within 1e-12 of the sum of |error|, below 100.
        assert total(errors, row) == pytest.approx(total(errors, other), rel=0, abs=2e-10)


def test_a_result_repeats(solve: Any) -> None:
    errors = [1 / (1 + np.arange(30.0))] * 5
    costs = [np.arange(30.0)] * 5
    first, _ = solve(errors, costs, np.arange(0.0, 150.0, 7.0))
    again, _ = solve(errors, costs, np.arange(0.0, 150.0, 7.0))
    np.testing.assert_array_equal(first, again)


def test_ties_go_to_the_cheaper_option_then_the_lower_index(solve: Any) -> None:
    chosen, exact = solve([[1.0, 0.0, 0.0, 0.0]], [[0.0, 3.0, 2.0, 2.0]], [np.inf, 2.0, 1.0])
    np.testing.assert_array_equal(chosen, [[2], [2], [0]])
    assert exact.all()


def test_an_exactly_fitting_choice_is_found(solve: Any) -> None:
    # 0.1 + 0.2 > 0.3 in floating point.
    chosen, _ = solve([[1.0, 0.0], [2.0, 0.0]], [[0.0, 0.1], [0.0, 0.2]], [0.3, 0.3 - 1e-6])
    np.testing.assert_array_equal(chosen, [[1, 1], [0, 1]])


def test_beyond_the_cap_the_choice_fits_and_is_flagged(solve: Any) -> None:
    """Subset sums: 40 sites to keep or drop, where each unit of cost saves the same error."""
    rng = np.random.default_rng(0)
    weights = rng.random(40)
    errors = [np.array([w, 0.0]) for w in weights]
    costs = [np.array([0.0, w]) for w in weights]
    budget = weights.sum() / 2
    chosen, exact = solve(errors, costs, [budget])
    spent = total(costs, chosen[0])
    assert spent <= budget * (1 + SLACK)
    # Errors are what is not spent, and whole segments of the hulls leave one item at most.
    assert budget - spent < weights.max()
    assert not exact[0]


def test_a_tight_cap_costs_proof_not_much_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_host", None)
    monkeypatch.setattr(knapsack, "_MOST_CANDIDATES", 200)
    rng = np.random.default_rng(0)
    errors = [curve("nonconvex", 60, rng) for _ in range(8)]
    costs = [np.append(0.0, np.cumsum(rng.integers(1, 99, 60))).astype(float) for _ in range(8)]
    dense = int(sum(c[-1] for c in costs))
    budgets = np.linspace(0.1, 0.9, 9) * dense // 1
    chosen, exact = allocate(errors, costs, budgets)
    assert not exact.all()
    for row, budget, proved in zip(chosen, budgets, exact, strict=True):
        assert total(costs, row) <= budget
        best = by_dynamic_programming(errors, costs, int(budget))
        assert total(errors, row) <= best * (1 + 1e-9 if proved else 1.05)


def test_no_sites_and_no_budgets(solve: Any) -> None:
    chosen, exact = solve([], [], [1.0, -1.0])
    assert chosen.shape == (2, 0)
    assert exact.all()
    chosen, exact = solve([[1.0]], [[0.0]], [])
    assert chosen.shape == (0, 1)
    assert exact.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [], [1.0]), "errors has 1 sites, costs 0"),
        (([[1.0], [1.0, 2.0]], [[1.0], [1.0]], [1.0]), r"errors\[1\] and costs\[1\]"),
        (([[[1.0]]], [[[1.0]]], [1.0]), "one-dimensional"),
        (([[1.0], []], [[1.0], []], [1.0]), "site 1 has no options"),
        (([[np.nan]], [[1.0]], [1.0]), r"errors\[0\] must be finite"),
        (([[1.0]], [[np.inf]], [1.0]), r"costs\[0\] must be finite"),
        (([[1.0]], [[-1.0]], [1.0]), r"costs\[0\] must be finite and not negative"),
        (([[1.0]], [[1.0]], [np.nan]), "budgets"),
        (([[1.0]], [[1.0]], 1.0), "budgets"),
    ],
)
def test_bad_input_is_named(solve: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(*arguments)
