"""The optimizer of weights, gates and multipliers together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from fastprune.cofi.student import Student

_LARGEST_NORM = 1.0
"""Of the gradients of all weights together; those of gates and multipliers are not clipped."""


class Steps(AdamW):
    """AdamW over three groups: weights; gates, which keep within bounds; and multipliers, by which
    the loss is maximised."""

    def __init__(
        self, student: Student, *, rate: float, weight_decay: float, gate_rate: float
    ) -> None:
        """Args: student: to train. rate: of weights. gate_rate: of gates and multipliers."""
        gates, lagrangian = student.gates, student.lagrangian
        apart = [] if gates is None or lagrangian is None else [gates.alpha, lagrangian.multipliers]
        theirs = set(map(id, apart))
        weights = [p for p in student.parameters() if p.requires_grad and id(p) not in theirs]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        for parameter, maximise in zip(apart, (False, True), strict=False):
            groups.append(
                {
                    "params": [parameter],
                    "lr": gate_rate,
                    "weight_decay": 0.0,
                    "maximize": maximise,
                }
            )
        super().__init__(groups, lr=rate)
        self._weights, self._gates, self._lagrangian = weights, gates, lagrangian

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of all groups."""
        nn.utils.clip_grad_norm_(self._weights, _LARGEST_NORM)
        found = super().step(closure)
        if self._gates is not None and self._lagrangian is not None:
            self._gates.clamp_()
            self._lagrangian.steps += 1
        return found

    def schedule(self, steps: int) -> LambdaLR:
        """Rates over so many steps: those of weights fall to 0, the others stay."""

        def fall(step: int) -> float:
            return max(0.0, 1 - step / steps)

        def stay(step: int) -> float:
            return 1.0

        count = len(self.param_groups)
        return LambdaLR(self, [fall if group < 2 else stay for group in range(count)])
