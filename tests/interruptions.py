"""Training that is stopped half-way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """The user loses patience after so many steps."""
    step, taken = torch.optim.AdamW.step, []

    def failing(self: Any, closure: Any = None) -> Any:
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            yield
