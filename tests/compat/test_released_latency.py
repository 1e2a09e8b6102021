"""Latency tables of the original, and their fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastprune.compat.retraining_free import (
    estimate_latency,
    fit_latency_fn,
    get_pruning_schedule,
    lookup_latency,
)
from fastprune.errors import BudgetError


def released_fit(lut):
    """Every threshold, every unit: the least squared error wins, of equals the first."""
    best = None
    for threshold in range(1, len(lut) + 1):
        c = sum(lut[:threshold]) / threshold
        over = over_squared = 0.0
        for step, value in enumerate(lut[threshold:], 1):
            over += step * (value - c)
            over_squared += step * step
        slope = max(over / over_squared, 0.0) if over_squared else 0.0
        error = sum(
            (value - c - slope * max(i + 1 - threshold, 0)) ** 2 for i, value in enumerate(lut)
        )
        if best is None or error < best[0]:
            best = error, threshold, c, slope
    return best[1:]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 1e6])  # the original gives up on errors above 10000
def test_fit_is_the_best_threshold(seed, scale):
    generator = np.random.default_rng(seed)
    units = np.arange(1, 41)
    lut = scale * (2 + 0.1 * np.maximum(units - 7 * seed, 0) + 0.2 * generator.random(40))
    fit = fit_latency_fn(list(lut))
    threshold, c, slope = released_fit(lut)
    assert fit.threshold == threshold
    assert (fit.c, fit.slope) == pytest.approx((c, slope), rel=1e-12)


def test_fit_recovers_what_the_table_was_made_of():
    fit = fit_latency_fn(torch.tensor([2.0, 2, 2, 2.5, 3, 3.5]))
    assert (fit.threshold, fit.c, fit.slope) == (3, 2.0, pytest.approx(0.5))


def test_falling_tables_have_no_slope():
    assert fit_latency_fn([3.0, 2.0, 1.0]).slope == 0


def test_latency_is_looked_up_per_sublayer():
    heads = torch.tensor([[1.0, 0.5, 0], [0, 0, 0]])
    filters = torch.tensor([[0.0, 1], [2, 2]])
    assert lookup_latency([1.0, 2, 3], heads[0]) == 2
    assert lookup_latency([1.0, 2, 3], heads[1]) == 0
    assert estimate_latency([1.0, 2, 3], np.array([10.0, 20]), heads, filters) == 2 + 10 + 20


def test_tables_that_are_too_short_are_refused():
    with pytest.raises(BudgetError, match="2 entries, but 3 are needed"):
        lookup_latency([1.0, 2.0], torch.ones(3))


@pytest.mark.parametrize(("target", "steps"), [(0.5, 1), (0.5, 2), (0.3, 4)])
def test_schedules_shrink_by_equal_factors(target, steps):
    schedule = get_pruning_schedule(target, steps)
    assert len(schedule) == steps
    assert schedule[-1] == target
    factors = np.diff(np.log([1, *schedule]))
    assert factors == pytest.approx(np.full(steps, np.log(target) / steps))
