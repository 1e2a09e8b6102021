"""The optimizer of weights, gates and multipliers together."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from fastprune.cofi.gates import Gates
from fastprune.cofi.lagrangian import Lagrangian

_LARGEST_NORM = 1.0
"""Of the gradients of all weights together; those of gates and multipliers are not clipped."""


def make_steps(
    weights: list[nn.Parameter],
    gates: Gates | None,
    lagrangian: Lagrangian | None,
    *,
    rate: float,
    weight_decay: float,
    gate_rate: float,
    steps: int,
) -> tuple[AdamW, LambdaLR]:
    """AdamW over weights, over gates, which keep within bounds, and over multipliers, by which the
    loss is maximised; and its schedule.

    Args:
        weights: all others than those of gates and multipliers.
        gates: None = there are none.
        lagrangian: of the gates.
        rate: of weights; falls to 0 linearly.
        weight_decay: of matrices.
        gate_rate: of gates and multipliers; stays.
        steps: over which the rate falls.
    """
    matrices = [p for p in weights if p.ndim > 1]
    vectors = [p for p in weights if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if gates is not None and lagrangian is not None:
        apart = {"lr": gate_rate, "weight_decay": 0.0}
        groups.append({"params": [gates.alpha], **apart})
        groups.append({"params": [lagrangian.multipliers], "maximize": True, **apart})
    optimizer = AdamW(groups, lr=rate)

    def before(*_: Any) -> None:
        # Here, because gradients of mixed precision have their true size only now.
        nn.utils.clip_grad_norm_(weights, _LARGEST_NORM)

    def after(*_: Any) -> None:
        if gates is not None and lagrangian is not None:
            gates.clamp_()
            lagrangian.steps += 1

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)

    def fall(step: int) -> float:
        return max(0.0, 1 - step / steps)

    def stay(step: int) -> float:
        return 1.0

    return optimizer, LambdaLR(optimizer, [fall, fall, *[stay] * (len(groups) - 2)])


def trained_weights(model: nn.Module) -> list[nn.Parameter]:
    """All that is trained of a model: what asks for gradients and is no lookup table. As in CoFi,
    embeddings stay what they were; a head that shares their weight does so, too.
    """
    tables = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters()
    }
    return [p for p in model.parameters() if p.requires_grad and id(p) not in tables]
