"""Which kinds of gates a model can have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastprune.cofi.choices import GATES
from fastprune.cofi.gating import gated_stream
from fastprune.compaction import compact
from fastprune.device import evaluation_mode, is_memory
from fastprune.errors import UnsupportedModelError


def possible_gates(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[str, ...]:
    """All kinds that a model can have: hidden dimensions only where it runs without some.

    Args:
        model: on its device.
        inputs: to run it on, there, too.
    """
    try:
        check_hidden_gates(model, inputs)
    except UnsupportedModelError:
        return tuple(kind for kind in GATES if kind != "hidden")
    return GATES


def all_but_one(width: int) -> Tensor:
    """bool [width]: hidden dimensions without the last of them, if it is not the only one."""
    return torch.arange(width) < max(1, width - 1)


def check_hidden_gates(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Refuse a model that is broken by the loss of a hidden dimension.

    A declaration knows one head of a model for a task. Models with others of their own are found
    out here, before they have been trained for hours.

    Raises:
        UnsupportedModelError: saying so.
    """
    small = compact(model, {}, hidden=all_but_one(gated_stream(model).width))
    try:
        with torch.no_grad(), evaluation_mode(small):
            small(**inputs)
    except RuntimeError as error:
        if is_memory(error):
            raise
        raise UnsupportedModelError(
            f"a {type(model).__name__} does not run without some of its hidden dimensions "
            f"({str(error).splitlines()[0]}); choose gates without hidden"
        ) from error
