"""A hard-coded GPU means the CPU where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.compat.retraining_free.launcher.attributes import attribute


@contextmanager
def cpu_without_gpu() -> Iterator[None]:
    """Within the context, ``.cuda()`` and ``.to("cuda")`` stay on the CPU of a machine without GPU.

    Whether there is one is found out when the first is asked for: until then the script may still
    set ``CUDA_VISIBLE_DEVICES``.
    """
    with ExitStack() as stack:
        for owner in (Tensor, nn.Module):
            stack.enter_context(attribute(owner, "cuda", _cuda(owner.cuda)))
            stack.enter_context(attribute(owner, "to", _to(owner.to)))
        stack.enter_context(warnings.catch_warnings())
        # DataLoaders that pin memory for a GPU that is not there.
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        yield


def _cuda(original: Callable[..., Any]) -> Callable[..., Any]:
    def cuda(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs) if torch.cuda.is_available() else self

    return cuda


def _to(original: Callable[..., Any]) -> Callable[..., Any]:
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        there = [_reachable(value) for value in args]
        return original(self, *there, **{key: _reachable(value) for key, value in kwargs.items()})

    return to


def _reachable(value: Any) -> Any:
    """The CPU in place of a GPU that is not there; anything else as it is."""
    if isinstance(value, (str, torch.device)) and torch.device(value).type == "cuda":
        return value if torch.cuda.is_available() else torch.device("cpu")
    return value
