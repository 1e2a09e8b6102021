"""Norms over some dimensions in plain PyTorch, to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def renormalised(z: Tensor) -> Any:
    """A forward hook on a norm: over the columns that are not 0 in ``z``, times ``z``."""

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        x, kept = args[0], z != 0
        few = x[..., kept]
        if isinstance(module, torch.nn.LayerNorm):
            few = few - few.mean(-1, keepdim=True)
        eps = module.eps if isinstance(module, torch.nn.LayerNorm) else module.variance_epsilon
        few = few * (few.square().mean(-1, keepdim=True) + eps).rsqrt() * module.weight[kept]
        if getattr(module, "bias", None) is not None:
            few = few + module.bias[kept]
        return torch.zeros_like(output).index_copy(-1, kept.nonzero().flatten(), few * z[kept])

    return hook
