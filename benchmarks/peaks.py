"""What the machine can do, measured: bandwidth of a copy, and rate of a large matrix product."""

from __future__ import annotations

import statistics
from functools import cache

import torch
from measure import Run, seconds_of

_ROUNDS = 5
# Large enough that neither caches nor launches count, small enough for seconds.
_COPIED_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
_GEMM_SIDE = {"cpu": 2048, "cuda": 8192}
# For a run that only shows that everything works.
_TINY_BYTES, _TINY_SIDE = 1 << 20, 64


@cache
def copy_rate(device: torch.device, tiny: bool) -> float:
    """Bytes per second of ``copy_``, those read and those written."""
    size = _TINY_BYTES if tiny else _COPIED_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _median_seconds(lambda: target.copy_(source), device)


@cache
def gemm_rate(dtype: torch.dtype, device: torch.device, tiny: bool) -> float:
    """Floating-point operations per second of a square ``torch.mm``; float32 without TF32."""
    side = _TINY_SIDE if tiny else _GEMM_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _median_seconds(lambda: torch.mm(a, b, out=out), device)


def _median_seconds(run: Run, device: torch.device) -> float:
    run()
    return statistics.median(seconds_of(run, device) for _ in range(_ROUNDS))
