"""One way to prune with one seed: what it gave for every budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastprune.comparison.ways import Way
from fastprune.pareto import Point


@dataclass(frozen=True)
class Cell:
    """One budget of a trial.

    Attributes:
        budget: as asked, e.g. ``"macs=0.5"``.
        score: of the pruned model.
        macs: share of the prunable part's multiply-accumulates that is left.
        params: share of all parameters that is left.
        latency_ms: measured; None where it was not.
        seconds: that this budget alone takes, from calibration to the tuned model.
        processor_seconds: the same of processor time, over all threads of the process.
        warnings: of its report.
    """

    budget: str
    score: float
    macs: float
    params: float
    latency_ms: float | None
    seconds: float
    processor_seconds: float
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Cell:
        """From the report of a run (see :class:`fastprune.report.Report`)."""
        point = Point(report)
        assert point.score is not None
        return cls(
            budget=point.budget,
            score=point.score,
            macs=point.macs,
            params=point.params,
            latency_ms=point.latency,
            seconds=_unloaded(report["timing_s"]),
            processor_seconds=_unloaded(report["processor_s"]),
            warnings=tuple(report["warnings"]),
        )


def _unloaded(stages: Mapping[str, float]) -> float:
    """Of all stages after loading."""
    return stages["total"] - stages["load"]


@dataclass(frozen=True)
class Trial:
    """All budgets of one run.

    Attributes:
        way: how it pruned.
        seed: of its every random choice, the draw of the calibration samples included.
        fingerprint: of all that it depends on, budgets apart.
        metric: what was scored.
        dense: score of the model before pruning.
        device: that it ran on.
        cells: one per budget, in the order they were asked for.
    """

    way: Way
    seed: int
    fingerprint: str
    metric: str
    dense: float
    device: str
    cells: tuple[Cell, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """The inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError: values of something else.
        """
        cells = tuple(
            Cell(**{**cell, "warnings": tuple(cell["warnings"])}) for cell in values["cells"]
        )
        return cls(**{**values, "way": Way(**values["way"]), "cells": cells})
