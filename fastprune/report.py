"""The report: what was asked, what came out, what was measured."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from fastprune.version import __version__


@dataclass
class Score:
    """A metric before and after pruning; None where nothing was evaluated."""

    metric: str | None = None
    dense: float | None = None
    pruned: float | None = None


@dataclass(frozen=True)
class Size:
    """A cost before and after pruning."""

    dense: float
    pruned: float

    @property
    def kept(self) -> float:
        """Share that is left."""
        return self.pruned / self.dense


@dataclass(frozen=True)
class Latency:
    """Measured milliseconds per forward pass (medians of interleaved runs).

    Attributes:
        dtype: of the passes.
        compiled: whether the models went through ``torch.compile``.
        estimated: by a latency table, where there is one.
    """

    dense: float
    pruned: float
    batch: int
    length: int
    dtype: str = "float32"
    compiled: bool = False
    estimated: Size | None = None

    @property
    def speedup(self) -> float:
        """How many times faster the pruned model is."""
        return self.dense / self.pruned

    @property
    def deviation(self) -> float | None:
        """How far the measured share of the dense model's latency is off the estimated one.

        Of shares, because both models are measured in turns: what slows the machine today, and did
        not when the table was measured, cancels out.
        """
        if self.estimated is None:
            return None
        return self.pruned / self.dense / self.estimated.kept - 1


STAGES = ("load", "calibrate", "search", "rearrange", "compact", "tune")


class Stopwatch:
    """Seconds per stage: by the clock, and of the processor, over all threads of this process.

    The latter hardly change when a machine has other work to do; a GPU's work is not in them.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.processor = dict.fromkeys(STAGES, 0.0)
        self._inner = (0.0, 0.0)

    def copy(self) -> Stopwatch:
        """A watch that goes on from here, for stages that are not shared."""
        other = Stopwatch()
        other.add(self)
        return other

    def add(self, other: Stopwatch, share: float = 1.0) -> None:
        """Count what another watch has counted, or a share of it."""
        for name in STAGES:
            self._count(name, share * other.seconds[name], share * other.processor[name])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of a ``with`` block to ``name``, less that of stages within it."""
        start = (time.perf_counter(), time.process_time())
        earlier, self._inner = self._inner, (0.0, 0.0)
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            wall = time.perf_counter() - start[0]
            processor = time.process_time() - start[1]
            self._count(name, wall - self._inner[0], processor - self._inner[1])
            self._inner = (earlier[0] + wall, earlier[1] + processor)

    def _count(self, name: str, seconds: float, processor: float) -> None:
        self.seconds[name] += seconds
        self.processor[name] += processor


@contextmanager
def shared_stage(watches: Sequence[Stopwatch], name: str) -> Iterator[None]:
    """Add equal parts of the duration of a ``with`` block to ``name`` of every watch."""
    common = Stopwatch()
    with common.stage(name):
        yield
    for watch in watches:
        watch.add(common, 1 / len(watches))


@dataclass
class Report:
    """Everything worth knowing about one pruned model; ``to_dict`` is what is saved.

    Attributes:
        budget: as asked, e.g. ``"macs=0.5"``.
        macs: multiply-accumulates of the prunable part, one sequence of ``seq_len`` tokens, or as
            many as a model's schedule lets into each block.
        params: parameters of the prunable part, biases of removed units included.
        params_total: parameters of the whole model, embeddings and heads included.
        targets: what calibration losses were taken against, ``"model"`` or ``"labels"``.
        units: kept units per layer, by ``"heads"`` and ``"filters"``; where heads have lost
            dimensions also by ``"query-key dimensions"`` and ``"value dimensions"``; where tokens
            are reduced, also how many ``"tokens"`` enter each. ``"hidden dimensions"`` is one
            number, where some have gone.
        timing_s: seconds per stage; stages before ``compact`` are shared by all budgets of a run
            (but for ``search``, where a method selects while it tunes, or tokens are reduced
            afterwards; of a method that trains, ``search`` is what is done under gates and ``tune``
            the fine-tuning, with the scoring of checkpoints in both). Budgets that are tuned
            side by side get equal parts of the time it takes, but each the whole of the dense
            model's pass, where that is not part of calibration.
            ``total`` is their sum; scoring and the measurement of latency are not in it.
        processor_s: the same of processor time, over all threads of the process.
        sample_ids: rows of the calibration source that were used, in order; empty where a method
            trains.
        training: how a method that trains has done so, and how many of what it took.
        latency_table: where, when and how the latency table was measured, if one was used.
        tuning: per site, the relative error of its output before it was tuned.
        processes: how many shared the work.
        warnings: one line each; empty when all went as asked.
        fingerprint: of the model, data and settings of a sweep, by which it is resumed.
    """

    budget: str
    method: str
    tune: str
    stages: int
    preset: str | None
    targets: str
    seed: int
    seq_len: float
    score: Score
    macs: Size
    params: Size
    params_total: Size
    units: dict[str, list[int]]
    timing_s: dict[str, float]
    processor_s: dict[str, float]
    sample_ids: list[int]
    training: dict[str, Any] | None = None
    latency_ms: Latency | None = None
    latency_table: dict[str, Any] | None = None
    tuning: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    device: str = "cpu"
    processes: int = 1
    dtype: str = "float32"
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        fields = asdict(self)
        score = fields.pop("score")
        fields["metric"] = score["metric"]
        fields["dense"] = {"score": score["dense"]}
        fields["pruned"] = {"score": score["pruned"]}
        for name in ("macs", "params", "params_total"):
            fields[name]["kept"] = getattr(self, name).kept
        if self.latency_ms is not None:
            fields["latency_ms"]["speedup"] = self.latency_ms.speedup
            fields["latency_ms"]["deviation"] = self.latency_ms.deviation
        return fields


def with_total(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds per stage, and their sum as ``"total"``."""
    return {**seconds, "total": sum(seconds.values())}


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = ("torch", "transformers", "datasets", "numpy", "scipy")
    return {
        "fastprune": __version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }
