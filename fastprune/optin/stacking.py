"""Arguments for several variants of a model at once: one after the other, each with all samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastprune.calibration.trace import BlockCall


def stacked_call(call: BlockCall, samples: int, variants: int) -> BlockCall:
    """What a block is called with for ``variants`` times as many samples.

    Masks, positions and the like may have one entry per sample, or serve them all.
    """

    def stacked(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(stacked, value))
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == samples:
            return _repeated(value, variants)
        return value

    kwargs = {name: stacked(value) for name, value in call.kwargs.items()}
    return BlockCall(stacked(call.args), kwargs)


def stacked_batch(batch: dict[str, Tensor], variants: int) -> dict[str, Tensor]:
    """A batch with its samples ``variants`` times over."""
    return {name: _repeated(value, variants) for name, value in batch.items()}


def _repeated(value: Tensor, times: int) -> Tensor:
    return value.repeat(times, *[1] * (value.ndim - 1))
