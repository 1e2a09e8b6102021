"""Multipliers that ascend bring the expected sparsity to its target and hold it there."""

from __future__ import annotations

import pytest
import torch
from gated_models import layout
from tiny_models import tiny
from torch import nn

from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.lagrangian import Lagrangian
from fastprune.cofi.steps import Steps
from fastprune.cofi.student import Student
from fastprune.structure import find_sites


class Pulled(nn.Module):
    """Stands in for a student: a loss that wants every gate open."""

    def __init__(self, gates: Gates, lagrangian: Lagrangian, pull: float) -> None:
        super().__init__()
        self.gates, self.lagrangian, self.pull = gates, lagrangian, pull
        self.weight = nn.Parameter(torch.ones(2, 2))

    def loss(self) -> torch.Tensor:
        values, sparsity = self.gates.draw()
        opened = torch.cat([*values.units.values(), values.hidden])
        return self.lagrangian(sparsity) - self.pull * opened.mean() * self.weight.mean()


@pytest.mark.parametrize("target", [0.6, 0.9])
@pytest.mark.parametrize("pull", [0.0, 0.5])
def test_it_holds_the_target_after_the_ramp(target: float, pull: float) -> None:
    torch.manual_seed(0)
    steps, ramp = 900, 200
    student = Pulled(Gates(layout(tiny("bert"))), Lagrangian(target, ramp), pull)
    optimizer = Steps(student, rate=1e-3, weight_decay=0.0, gate_rate=0.05)  # type: ignore[arg-type]
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        student.loss().backward()
        optimizer.step()
        seen.append(student.gates.sparsity())
        assert float(student.gates.alpha.detach().abs().max()) <= LARGEST + 1e-6
    assert max(abs(s - target) for s in seen[-100:]) < 0.01
    assert student.lagrangian.target == target


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
    model = tiny("bert").float()
    found = layout(model)
    student = Student(model, find_sites(model), gates=Gates(found), lagrangian=Lagrangian(0.5, 0))
    steps = Steps(student, rate=0.0, weight_decay=0.0, gate_rate=0.1)
    torch.manual_seed(0)
    student.lagrangian(student.gates.draw()[1]).backward()
    steps.step()
    linear, square = student.lagrangian.multipliers.tolist()
    assert linear == pytest.approx(-0.1, rel=1e-3)  # sparsity is short of its target
    assert square == pytest.approx(0.1, rel=1e-3)
    assert int(student.lagrangian.steps) == 1
