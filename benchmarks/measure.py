"""How times are taken: ours and the baselines in turns, on one clock, as a pytest-benchmark case.

The machine's speed drifts, so a ratio means something only where both sides ran in turns. Every
round of pytest-benchmark calls its ``setup``, and there the baselines run. On CUDA times come from
events, behind a flush of the L2 cache that also hides the launches; pytest-benchmark's own columns
hold everything the clock did, flush and warming up included: read ``seconds`` instead.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], object]

# More than the L2 cache of any GPU.
_FLUSH_BYTES = 256 << 20
# Below this, waking the threads after somebody else's work is a visible part of a call.
_SHORT_SECONDS = 0.05


@cache
def _flush_buffer() -> Tensor:
    return torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")


def seconds_of(run: Run, device: torch.device) -> float:
    """Seconds that one call takes on ``device``; a short one on the CPU is the second of two."""
    if device.type == "cpu":
        seconds = _wall_seconds(run)
        return _wall_seconds(run) if seconds < _SHORT_SECONDS else seconds
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _flush_buffer().zero_()
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def _wall_seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(
    benchmark: Any,
    device: torch.device,
    ours: Run,
    baselines: Mapping[str, Run],
    *,
    rounds: int = 5,
    once: Collection[str] = (),
) -> dict[str, Any]:
    """Time ``ours`` and every baseline in turns, after one round of warming up.

    Args:
        benchmark: the pytest-benchmark fixture; its own statistics are those of ``ours``.
        once: baselines so slow that one round, the one of warming up, has to do.

    Returns:
        Medians and ratios, for ``extra_info``.
    """
    our_times: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in baselines}

    def run_baselines() -> None:
        for name, run in baselines.items():
            if not (name in once and times[name]):
                times[name].append(seconds_of(run, device))

    benchmark.pedantic(
        lambda: our_times.append(seconds_of(ours, device)),
        setup=run_baselines,
        rounds=rounds,
        warmup_rounds=1,
    )
    seconds = _median(our_times)
    medians = {name: _median(values) for name, values in times.items()}
    return {
        "clock": "perf_counter" if device.type == "cpu" else "cuda events",
        "rounds": rounds,
        "seconds": seconds,
        "baseline_seconds": medians,
        "speedup": {name: median / seconds for name, median in medians.items()},
    }


def _median(times: list[float]) -> float:
    """Of all rounds but the first, which warms up, unless it is the only one."""
    return statistics.median(times[1:] or times)
