"""How gates are made to reach a sparsity: a Lagrangian whose multipliers ascend."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_SETTLING = 30.0
"""Steps times their gate rate until gates keep to their target: after fewer they are still closing,
or have run past it, as multipliers ascend for as long as it is missed."""


def steps_to_settle(gate_rate: float) -> int:
    """How many steps gates take, about, to come to rest at a target of sparsity."""
    return math.ceil(_SETTLING / gate_rate)


class Lagrangian(nn.Module):
    """``l1 (s - t) + l2 (s - t)^2`` for an expected sparsity ``s`` and a target ``t`` (Wang et al.
    2020, "Structured pruning of large language models"), where the target ramps up linearly.

    Attributes:
        multipliers: float32 [2], ``l1`` and ``l2``, from 0; an optimizer is to maximise by them.
        aim: the target after the ramp.
        steps: how many have been taken; part of checkpoints.
    """

    def __init__(self, target: float, ramp: int) -> None:
        """Start with a target of 0.

        Args:
            target: sparsity to reach.
            ramp: after so many steps.
        """
        super().__init__()
        self.aim, self._ramp = target, ramp
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.steps = 0

    @property
    def target(self) -> float:
        """The sparsity that is asked for by now."""
        return self.aim * min(1.0, (self.steps + 1) / max(1, self._ramp))

    def get_extra_state(self) -> Tensor:
        """The number of steps, which no device has to be asked for in between."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of :meth:`get_extra_state`."""
        self.steps = int(state)

    def forward(self, sparsity: Tensor) -> Tensor:
        """What being off the target costs: a scalar for a scalar."""
        gap = sparsity - self.target
        linear, square = self.multipliers.to(gap)
        return linear * gap + square * gap.square()
