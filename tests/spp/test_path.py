"""Solution paths against what can be said about them on paper."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from fastprune.errors import NumericalError
from fastprune.spp import FisherLoss, SolutionPaths, follow_paths

F64 = torch.float64
CURVATURES = torch.tensor([5.0, 2.0, 1.0, 0.7, 0.25], dtype=F64)


def rows_of(fisher: Tensor) -> Tensor:
    """Gradients whose second moment is ``fisher``."""
    return torch.linalg.cholesky(fisher, upper=True) * math.sqrt(len(fisher))


def correlated(n: int, seed: int) -> Tensor:
    x = torch.randn(2 * n, n, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return x.T @ x / (2 * n)


def follow(
    fisher: Tensor,
    *,
    nu: float | Tensor = 1.0,
    kappa: float = 10.0,
    thresholds: Tensor | None = None,
    steps: int = 100_000,
    curvature: float | None = None,
) -> SolutionPaths:
    loss = FisherLoss(rows_of(fisher))
    nu = torch.as_tensor(nu, dtype=F64).reshape(-1)
    if thresholds is None:
        thresholds = torch.ones(len(nu), len(fisher), dtype=F64)
    return follow_paths(
        loss.gradient, curvature or loss.curvature, thresholds, nu, kappa=kappa, steps=steps
    )


def entry_time(h: float, nu: float, kappa: float, threshold: float = 1.0) -> float:
    """When Z' = (M - 0) / nu and M' = -kappa (h (M - 1) + M / nu) reach Z = threshold.

    M relaxes from 1 to its rest h / (h + 1 / nu) at the rate kappa (h + 1 / nu), and Z is the
    integral of M / nu.
    """
    rest, rate = h / (h + 1 / nu), kappa * (h + 1 / nu)

    def missing(t: float) -> float:
        return rest * t + (1 - rest) * -math.expm1(-rate * t) / rate - threshold * nu

    return brentq(missing, 0, 2 * threshold * (nu + 1 / h))


def step_of(nu: float, kappa: float) -> float:
    """How long a step of the independent units below lasts."""
    return 1 / (kappa * (float(CURVATURES.max()) + 2 / nu))


@pytest.mark.parametrize("nu", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("kappa", [1.0, 10.0, 100.0])
def test_independent_units_enter_when_the_equation_says(nu: float, kappa: float) -> None:
    paths = follow(CURVATURES.diag(), nu=nu, kappa=kappa)
    for found, h in zip(paths.crossing[0].tolist(), CURVATURES.tolist(), strict=True):
        # Euler's sum of a relaxation is its integral, but for q^k in place of e^(-rate t): both
        # are below e^(-4 kappa) when a unit enters, since rate (nu + 1 / h) >= 4 kappa. A line
        # between two steps is off by less than one of them.
        relaxation = (1 / nu) / (h * kappa * (h + 1 / nu))
        bound = step_of(nu, kappa) + math.exp(-4 * kappa) * relaxation
        assert found == pytest.approx(entry_time(h, nu, kappa), rel=0, abs=bound)


def test_with_large_kappa_it_is_threshold_times_nu_plus_the_inverse_curvature() -> None:
    nu, kappa = 0.5, 300.0
    paths = follow(CURVATURES.diag(), nu=nu, kappa=kappa)
    # What is left of the relaxation, (1 - rest) / (rest * rate), and a step as above.
    relaxation = (1 / nu) / (CURVATURES * kappa * (CURVATURES + 1 / nu))
    error = (paths.crossing[0] - (nu + 1 / CURVATURES)).abs()
    assert (error <= relaxation + 2 * step_of(nu, kappa)).all()
    assert (error > 0.1 * relaxation).all()  # finite kappa does show


def test_costs_scale_the_thresholds() -> None:
    costs = torch.tensor([4.0, 1.0, 0.5, 2.0, 0.1], dtype=F64)
    nu, kappa = 0.5, 100.0
    paths = follow(CURVATURES.diag(), nu=nu, kappa=kappa, thresholds=costs[None])
    step = step_of(nu, kappa)
    for found, h, cost in zip(paths.crossing[0], CURVATURES, costs, strict=True):
        exact = entry_time(float(h), nu, kappa, float(cost))
        assert float(found) == pytest.approx(exact, abs=2 * step)
    value_per_cost = (costs * (nu + 1 / CURVATURES)).argsort()
    assert torch.equal(paths.order(0), value_per_cost)


def test_with_small_nu_duals_first_rise_by_the_gradient_at_the_empty_model() -> None:
    fisher = correlated(12, 0)
    curvature = float(torch.linalg.eigvalsh(fisher).max())
    nu, kappa, steps = 1e-3 / curvature, 10.0, 4_000
    paths = follow(fisher, nu=nu, kappa=kappa, steps=steps, curvature=curvature)
    assert paths.crossing.isinf().all()  # no gate has opened yet
    time = steps / (kappa * (curvature + 2 / nu))
    # Masks fall from 1 to nu F 1 (1 + O(nu F)), which leaves 1 / kappa in their duals, and rest.
    rate = (paths.dual[0] - 1 / kappa) / time
    expected = fisher.sum(1)
    # The rest is off by nu times the curvature, and so is, over kappa * time of 2 / curvature, what
    # the fall leaves.
    assert (rate - expected).abs().max() <= 2 * nu * curvature * expected.norm()


def test_without_coupling_all_units_enter_together() -> None:
    fisher, nu, steps = correlated(9, 1), 1e9, 3_000
    paths = follow(fisher, nu=nu, steps=steps)
    dual = paths.dual[0]
    # A step moves a mask by kappa alpha / nu at most, which is 1 / (curvature nu).
    spread = steps / (float(torch.linalg.eigvalsh(fisher).max()) / 2 * nu)
    assert spread < 1e-5
    assert (dual > 0).all()
    assert (dual / dual.max() >= 1 - spread).all()


def test_at_the_end_all_masks_and_gates_are_one() -> None:
    fisher = correlated(8, 2)
    # One more unit, of which the others know nothing, never enters and keeps the path going.
    thresholds = torch.ones(1, 9, dtype=F64)
    thresholds[0, 8] = 1e12
    paths = follow(torch.block_diag(fisher, torch.eye(1)), thresholds=thresholds, steps=20_000)
    assert paths.steps == 20_000
    # The slowest direction shrinks by about h / (2 (curvature + 2)) a step: with a condition of at
    # most 100, by e^(-20) or more in all.
    assert torch.linalg.cond(fisher) < 100
    for values in (paths.mask, paths.gate):
        torch.testing.assert_close(values[0, :8], torch.ones(8, dtype=F64), rtol=0, atol=1e-6)


def test_paths_side_by_side_are_those_of_one_alone() -> None:
    fisher, nu = correlated(12, 3), torch.tensor([0.2, 1.0, 5.0], dtype=F64)
    thresholds = 0.5 + torch.rand(3, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    together = follow(fisher, nu=nu, thresholds=thresholds, steps=4_000)
    for i in range(3):
        alone = follow(fisher, nu=nu[i], thresholds=thresholds[i : i + 1], steps=4_000)
        assert torch.equal(together.order(i), alone.order(0))
        found = alone.crossing[0].isfinite()
        assert found.sum() > 6
        # Products of one row and of three may round differently. A step contracts, so 4,000 of them
        # leave errors of some 1e-12 in the duals, which rise by more than 1e-3 a time unit.
        torch.testing.assert_close(
            together.crossing[i][found], alone.crossing[0][found], rtol=1e-8, atol=0
        )


def test_it_stops_when_all_have_entered_and_says_after_how_many_steps() -> None:
    full = follow(CURVATURES.diag(), steps=100_000)
    assert full.crossing.isfinite().all()
    assert full.steps < 100_000
    half = follow(CURVATURES.diag(), steps=full.steps // 3)
    assert half.steps == full.steps // 3
    assert half.crossing.isinf().any()
    assert half.crossing.isfinite().any()
    # Who has entered is in front, and who has not follows by how close it has come: of independent
    # units the same order.
    assert torch.equal(half.order(0), full.order(0))


def test_the_order_of_equals_is_their_own() -> None:
    paths = follow(torch.eye(6, dtype=F64))
    assert paths.order(0).tolist() == list(range(6))


def test_duals_below_zero_come_last() -> None:
    infinite = torch.full((1, 4), float("inf"), dtype=F64)
    dual = torch.tensor([[-3.0, 0.2, 0.9, -0.1]], dtype=F64)
    paths = SolutionPaths(infinite, dual, dual, dual, 1)
    assert paths.order(0).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1, 5)])
def test_the_fisher_loss_is_the_quadratic_form(shape: tuple[int, int]) -> None:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    masks = torch.randn(3, shape[1], generator=torch.Generator().manual_seed(6), dtype=F64)
    fisher = rows.T @ rows / len(rows)
    loss = FisherLoss(rows)
    exact = (masks - 1) @ fisher
    # Sums of so many products in float64, of sizes below those of the absolute values.
    size = (masks.abs() + 1) @ (rows.abs().T @ rows.abs() / len(rows))
    bound = 2 * (sum(shape) + 4) * torch.finfo(F64).eps * size
    assert ((loss.gradient(masks) - exact).abs() <= bound).all()
    value = (exact * (masks - 1)).sum(1) / 2
    torch.testing.assert_close(loss(masks), value, rtol=1e-12, atol=0)
    largest = float(torch.linalg.eigvalsh(fisher).max())
    assert largest / 2 < loss.curvature <= largest * (1 + 1e-9)


def test_masks_rest_where_loss_and_coupling_cancel() -> None:
    rows = torch.randn(6, 20, generator=torch.Generator().manual_seed(7), dtype=F64)
    loss, nu = FisherLoss(rows), torch.tensor([0.1, 3.0], dtype=F64)
    rest = loss.at_rest(nu)
    pull = rest / nu[:, None]
    # A solution of condition nu * curvature + 1, about 20, in float64.
    assert (loss.gradient(rest) + pull).abs().max() <= 1e-12 * pull.abs().max()
    # From there masks do not move while gates are closed, and duals rise evenly.
    thresholds = torch.full((2, 20), 1e6, dtype=F64)
    paths = follow_paths(
        loss.gradient, loss.curvature, thresholds, nu, kappa=10.0, steps=200, start=rest
    )
    torch.testing.assert_close(paths.mask, rest, rtol=0, atol=1e-10)
    time = 200 / (10 * (loss.curvature + 2 / nu[:, None]))
    torch.testing.assert_close(paths.dual * 1e6, pull * time, rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_gradients_that_no_path_starts_from_are_refused(value: float) -> None:
    with pytest.raises(NumericalError, match="check the calibration samples") as caught:
        FisherLoss(torch.full((4, 3), value))
    assert "\n" not in str(caught.value)


def test_a_path_that_does_not_stay_finite_is_refused() -> None:
    one = torch.ones(1, 3, dtype=F64)
    with pytest.raises(NumericalError, match="does not stay finite"):
        follow_paths(lambda mask: mask * float("nan"), 1.0, one, one[:, 0], kappa=10.0, steps=5)
