"""What the kernels, on CUDA unless they name the CPU, and the pipeline on a GPU are held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def case_name(operation: str, shape: Iterable[Any]) -> str:
    """``("gram", (9, 5, "float32"))`` to ``"gram 9x5 float32"``."""
    extents = [str(part) for part in shape if isinstance(part, int)]
    words = [str(part) for part in shape if not isinstance(part, int)]
    return " ".join([operation, *(["x".join(extents)] if extents else []), *words])


@dataclass(frozen=True)
class Target:
    """A bound on one number of one benchmark.

    Attributes:
        operation: the benchmark is ``test_<operation>``.
        shape: its extents and type; empty for the pipeline.
        measure: a key of the benchmark's ``extra_info``. ``"speedup"`` is the one over
            ``baseline``, and ``"time share"`` its inverse.
        baseline: which; "" = the fastest.
    """

    operation: str
    shape: tuple[Any, ...]
    measure: str
    baseline: str = ""
    at_least: float | None = None
    at_most: float | None = None
    device: str = "cuda"

    @property
    def case(self) -> str:
        return case_name(self.operation, self.shape)

    @property
    def what(self) -> str:
        """In words: ``"speedup over eager >= 3"``."""
        relation = "over" if self.measure == "speedup" else "of"
        over = f" {relation} {self.baseline or 'the best'}" if self._relative else ""
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{self.measure.replace('_', ' ')}{over} {bound}"

    @property
    def _relative(self) -> bool:
        return self.measure in ("speedup", "time share")

    def value(self, extra: Mapping[str, Any]) -> float | None:
        """The number in a benchmark's ``extra_info``; None where it was not measured."""
        if not self._relative:
            return extra.get(self.measure)
        speedups = extra["speedup"]
        speedup = speedups[self.baseline] if self.baseline else min(speedups.values())
        return speedup if self.measure == "speedup" else 1 / speedup

    def met(self, value: float) -> bool:
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


PIPELINE = "gpu_pipeline[fisher]"
"""The whole pipeline is the benchmark in bench_pipeline.py whose name contains this. It stores
``seconds``, ``floor_ratio`` and ``peak_gib`` in its ``extra_info``."""
OBS_PIPELINES = ("gpu_pipeline[obs]", "cpu_pipeline[obs-float32]")
"""The same with the default selection, beside the one above."""

_ONE_LAYER = (1, 12, 3072, 2048)
_TWELVE_BUDGETS = (12, 12, 3072, 2048)
_BERT_BASE = (12, 3072, 12, 64, 768, "float64")

TARGETS = [
    *(
        target
        for units, group in ((3072, 1), (12, 64))
        for target in (
            Target("mask_grad", (256, 128, units, group, "bfloat16"), "copy_share", at_least=0.85),
            Target("mask_grad", (256, 128, units, group, "bfloat16"), "speedup", "eager", 3.0),
        )
    ),
    Target("fisher_outer", (12, 2048, 3072), "speedup", "bmm", 1.3),
    Target("greedy_rearrange", _ONE_LAYER, "seconds", at_most=0.015),
    Target("greedy_rearrange", _ONE_LAYER, "speedup", "textbook loop", 500),
    Target("greedy_rearrange", _TWELVE_BUDGETS, "seconds", at_most=0.040),
    Target("greedy_rearrange", _TWELVE_BUDGETS, "speedup", "textbook loop", 500),
    *(
        Target("gram", (32768, width, width // 2, dtype), "time share", at_most=0.65)
        for width in (768, 3072)
        for dtype in ("float32", "bfloat16")
    ),
    Target("ragged_lstsq", (1000, 64, 1), "speedup", "cholesky loop", 10),
    Target("ragged_lstsq", (1000, 64, 1), "speedup", "padded cholesky", 2),
    Target("equal_lstsq", (12, 1536, 1), "speedup", at_least=1.0),
    Target("equal_lstsq", (12, 1536, 768), "speedup", at_least=1.0),
    Target("obs_greedy", _BERT_BASE, "seconds", at_most=1.5),
    *(
        Target("obs_greedy", shape, "speedup", "direct rank-one", 10, device="cpu")
        for shape in ((1, 1536, 0, 32, 384, "float64"), (6, 1536, 12, 32, 384, "float64"))
    ),
    *(
        target
        for name in (PIPELINE, OBS_PIPELINES[0])
        for target in (
            Target(name, (), "seconds", at_most=1.0),
            Target(name, (), "floor_ratio", at_most=1.25),
            Target(name, (), "peak_gib", at_most=5.58),  # 6 GB
        )
    ),
    *(Target(name, (), "time share", "fisher", at_most=1.5) for name in OBS_PIPELINES),
]


def find(extras: Iterable[tuple[str, Mapping[str, Any]]], target: Target) -> float | None:
    """What was measured for ``target`` among benchmarks, as (name, ``extra_info``)."""
    for name, extra in extras:
        if target.operation in (PIPELINE, *OBS_PIPELINES):
            found = target.operation in name
        else:
            found = extra.get("device") == target.device and extra.get("case") == target.case
        if found:
            return target.value(extra)
    return None
