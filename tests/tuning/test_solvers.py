"""Solvers against explicit least squares over stacked rows, without normal equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny

from fastprune import find_sites
from fastprune.numerics import RIDGE
from fastprune.tuning.solvers import (
    SCALE_RIDGE,
    SolveFailure,
    reconstruct_weights,
    scale_units,
)
from fastprune.tuning.system import LeastSquares

SITE = find_sites(tiny("bert"))[0]


@pytest.fixture(params=[(5, 1), (3, 4), (1, 1), (1, 7)], ids=str)
def problem(request):
    """x, error, weight, bias of a random site with (units, group) columns; x is off centre."""
    units, group = request.param
    generator = torch.Generator().manual_seed(units)
    x = torch.randn(200, units * group, generator=generator) + 2
    error = torch.randn(200, 6, generator=generator)
    weight = torch.randn(6, units * group, generator=generator)
    site = replace(SITE, units=units, group=group, outputs=6)
    return site, x, error, weight, torch.randn(6, generator=generator)


def sums(x, error):
    system = LeastSquares(x.shape[1], error.shape[1], x.device)
    system.add(x[:77], error[:77])
    system.add(x[77:], error[77:])
    return system


def ridge_regression(x, y, penalty):
    """argmin |y - x w|^2 + penalty |w|^2, by stacking the penalty as further rows."""
    stacked = torch.cat([x, penalty**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    target = torch.cat([y, y.new_zeros(x.shape[1], y.shape[1])])
    return torch.linalg.lstsq(stacked, target).solution


def close(got, expected):
    # f32 sums over 200 rows: 200 * eps, amplified by at most 1 / RIDGE.
    return (got - expected).abs().max() <= 200 * 6e-8 / RIDGE * expected.abs().max()


def test_reconstruction_is_ridge_regression_with_a_free_bias(problem):
    site, x, error, weight, bias = problem
    update = reconstruct_weights(site, sums(x, error), weight, bias)
    x, error = x.double(), error.double()
    penalty = RIDGE * x.square().sum(0).mean()
    change = ridge_regression(x - x.mean(0), error - error.mean(0), penalty)
    assert close(update.weight, weight + change.T)
    assert close(update.bias, bias + error.mean(0) - x.mean(0) @ change)


def test_reconstruction_without_a_bias(problem):
    site, x, error, weight, _ = problem
    update = reconstruct_weights(site, sums(x, error), weight, None)
    penalty = RIDGE * x.double().square().sum(0).mean()
    change = ridge_regression(x.double(), error.double(), penalty)
    assert update.bias is None
    assert close(update.weight, weight + change.T)


def test_nothing_left_to_correct_changes_nothing(problem):
    site, x, _, weight, bias = problem
    system = sums(x, torch.zeros(200, 6))
    for solver in (reconstruct_weights, scale_units):
        update = solver(site, system, weight, bias)
        assert torch.equal(update.weight, weight.double())
        if update.bias is not None:
            assert torch.equal(update.bias, bias.double())


def test_a_singular_system_is_a_failure_not_a_result(problem):
    site, x, error, weight, bias = problem
    system = sums(torch.zeros_like(x), error)
    with pytest.raises(SolveFailure, match="singular"):
        reconstruct_weights(site, system, weight, bias)


def test_values_that_are_not_finite_are_a_failure(problem):
    site, x, error, weight, bias = problem
    error[3, 2] = float("inf")
    with pytest.raises(SolveFailure, match="not finite"):
        reconstruct_weights(site, sums(x, error), weight, bias)


def test_systems_beyond_the_native_limit_are_solved_too(problem, monkeypatch):
    site, x, error, weight, bias = problem
    expected = [
        solver(site, sums(x, error), weight, bias).weight
        for solver in (reconstruct_weights, scale_units)
    ]
    monkeypatch.setattr("fastprune.ops.LARGEST_SYSTEM", 0)
    got = [
        solver(site, sums(x, error), weight, bias).weight
        for solver in (reconstruct_weights, scale_units)
    ]
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


def test_scales_minimise_the_error_that_the_metric_sees():
    """Against least squares over rows whose errors were projected first."""
    generator = torch.Generator().manual_seed(0)
    x, error = (torch.randn(200, n, generator=generator) for n in (12, 6))
    weight = torch.randn(6, 12, generator=generator)
    direction = torch.randn(6, 2, generator=generator).double()
    site = replace(SITE, units=3, group=4, outputs=6)
    system = sums(x, error)
    system.metric = direction @ direction.T
    scales = scale_units(site, system, weight, None).weight / weight.double()
    outputs = [
        (x.double()[:, u * 4 : u * 4 + 4] @ weight.double()[:, u * 4 : u * 4 + 4].T @ direction)
        for u in range(3)
    ]
    columns = torch.stack([o.flatten() for o in outputs], dim=1)
    target = (error.double() @ direction).flatten()[:, None]
    penalty = SCALE_RIDGE * columns.square().sum(0).mean()
    expected = 1 + ridge_regression(columns, target, penalty)[:, 0]
    assert close(scales.mean(0).view(3, 4).mean(1), expected)
