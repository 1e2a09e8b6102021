"""Multipliers that ascend bring the expected sparsity to its target and hold it there."""

from __future__ import annotations

import pytest
import torch
from gated_models import layout
from tiny_models import tiny
from torch import nn

from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.lagrangian import Lagrangian, steps_to_settle
from fastprune.cofi.steps import make_steps


def optimizer_of(gates: Gates, lagrangian: Lagrangian, *, gate_rate: float) -> torch.optim.AdamW:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer, _ = make_steps(
        [weight], gates, lagrangian, rate=0.0, weight_decay=0.0, gate_rate=gate_rate, steps=9
    )
    return optimizer


def course(target: float, *, steps: int, ramp: int, rate: float, pull: float) -> list[float]:
    """The expected sparsity after every step, where a task pulls gates open."""
    torch.manual_seed(0)
    gates, lagrangian = Gates(layout(tiny("bert"))), Lagrangian(target, ramp)
    optimizer = optimizer_of(gates, lagrangian, gate_rate=rate)
    seen = []
    for _ in range(steps):
        values, sparsity = gates.draw()
        opened = torch.cat([*values.units.values(), values.hidden])
        optimizer.zero_grad()
        (lagrangian(sparsity) - pull * opened.mean()).backward()
        optimizer.step()
        seen.append(gates.sparsity())
        assert float(gates.alpha.detach().abs().max()) <= LARGEST + 1e-6
    assert lagrangian.target == target
    return seen


@pytest.mark.parametrize("target", [0.6, 0.9])
@pytest.mark.parametrize("pull", [0.0, 0.5])
def test_it_holds_the_target_after_the_ramp(target: float, pull: float) -> None:
    seen = course(target, steps=900, ramp=200, rate=0.05, pull=pull)
    assert max(abs(sparsity - target) for sparsity in seen[-100:]) < 0.01


def missed(steps: int, rate: float, target: float, pull: float) -> float:
    """By how much gates are off their target after so many steps."""
    seen = course(target, steps=steps, ramp=round(0.4 * steps), rate=rate, pull=pull)
    return abs(seen[-1] - target)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_gates_take_as_long_to_settle_as_is_said(target: float, pull: float) -> None:
    for rate in (0.05, 0.1):
        assert missed(steps_to_settle(rate), rate, target, pull) < 0.01
    assert missed(steps_to_settle(0.1) // 3, 0.1, target, pull) > 0.05


def test_the_target_ramps_up_linearly() -> None:
    lagrangian = Lagrangian(0.8, 4)
    targets = []
    for _ in range(6):
        targets.append(lagrangian.target)
        lagrangian.steps += 1
    assert targets == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_its_value_and_slopes() -> None:
    lagrangian = Lagrangian(0.5, 0)
    with torch.no_grad():
        lagrangian.multipliers.copy_(torch.tensor([2.0, 3.0]))
    sparsity = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    value = lagrangian(sparsity)
    value.backward()
    assert float(value) == pytest.approx(2 * -0.4 + 3 * 0.16)
    assert float(sparsity.grad) == pytest.approx(2 + 2 * 3 * -0.4)
    assert lagrangian.multipliers.grad.tolist() == pytest.approx([-0.4, 0.16])


def test_multipliers_ascend_and_gates_descend() -> None:
    gates, lagrangian = Gates(layout(tiny("bert"))), Lagrangian(0.5, 0)
    steps = optimizer_of(gates, lagrangian, gate_rate=0.1)
    torch.manual_seed(0)
    lagrangian(gates.draw()[1]).backward()
    steps.step()
    linear, square = lagrangian.multipliers.tolist()
    assert linear == pytest.approx(-0.1, rel=1e-3)  # sparsity is short of its target
    assert square == pytest.approx(0.1, rel=1e-3)
    assert lagrangian.steps == 1


def test_weights_fall_and_are_clipped_gates_do_neither() -> None:
    gates, lagrangian = Gates(layout(tiny("bert"))), Lagrangian(0.5, 0)
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
    optimizer, schedule = make_steps(
        [matrix, vector], gates, lagrangian, rate=0.8, weight_decay=0.1, gate_rate=0.2, steps=4
    )
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        matrix.grad, vector.grad = torch.full((2, 2), 30.0), torch.full((3,), 40.0)
        gates.alpha.grad = torch.full_like(gates.alpha, 50.0)
        lagrangian.multipliers.grad = torch.full((2,), 60.0)
        optimizer.step()
        schedule.step()
        squares = matrix.grad.square().sum() + vector.grad.square().sum()
        assert float(squares) == pytest.approx(1, rel=1e-4)
        assert float(gates.alpha.grad.max()) == 50
    assert rates == [[r, r, 0.2, 0.2] for r in (0.8, pytest.approx(0.6), 0.4, pytest.approx(0.2))]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0, 0, 0]


def test_steps_are_part_of_checkpoints() -> None:
    lagrangian = Lagrangian(0.8, 4)
    lagrangian.steps = 3
    other = Lagrangian(0.8, 4)
    other.load_state_dict(lagrangian.state_dict())
    assert other.steps == 3
    assert other.target == 0.8
