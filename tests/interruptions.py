"""Training whose steps are counted, or that is stopped half-way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """Within the block the user loses patience after so many steps."""
    step, taken = torch.optim.AdamW.step, []

    def failing(self: Any, closure: Any = None) -> Any:
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, closure)

    failing.hooked = True  # type: ignore[attr-defined]  # or torch would run hooks twice a step
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", failing)
        yield


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """The same, where it ends the block."""
    with stopping(monkeypatch, steps), pytest.raises(KeyboardInterrupt):
        yield


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every step within the block."""
    step, taken = torch.optim.AdamW.step, []

    def counted(self: Any, closure: Any = None) -> Any:
        taken.append(1)
        return step(self, closure)

    counted.hooked = True  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted)
        yield taken
