"""One point of a curve: a pruned model, what it costs and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastprune.compaction import load_pretrained
from fastprune.evaluation.metrics import LOWER_IS_BETTER


@dataclass(frozen=True, repr=False)
class Point:
    """A pruned model of a sweep.

    Attributes:
        report: as it is saved beside the model; see :class:`fastprune.report.Report`.
        directory: where the model lies; None where it was not saved.
        model: in memory; None where it was saved.
    """

    report: Mapping[str, Any]
    directory: Path | None = None
    model: nn.Module | None = None

    @property
    def budget(self) -> str:
        """As asked, e.g. ``"macs=0.5"``."""
        return str(self.report["budget"])

    @property
    def score(self) -> float | None:
        """Of the metric of the sweep; None where nothing was scored."""
        score = self.report["pruned"]["score"]
        return None if score is None else float(score)

    @property
    def drop(self) -> float | None:
        """How much worse than the dense model it scores; negative where it does better."""
        dense = self.report["dense"]["score"]
        if self.score is None or dense is None:
            return None
        sign = -1 if self.report["metric"] in LOWER_IS_BETTER else 1
        return sign * (float(dense) - self.score)

    @property
    def macs(self) -> float:
        """Share of the prunable part's multiply-accumulates that is left."""
        return float(self.report["macs"]["kept"])

    @property
    def params(self) -> float:
        """Share of all parameters that is left, embeddings and task head included."""
        return float(self.report["params_total"]["kept"])

    @property
    def latency(self) -> float | None:
        """Measured milliseconds of a forward pass; None where it was not measured."""
        measured = self.report["latency_ms"]
        return None if measured is None else float(measured["pruned"])

    @property
    def speedup(self) -> float | None:
        """How many times faster than the dense model, measured side by side."""
        measured = self.report["latency_ms"]
        return None if measured is None else float(measured["speedup"])

    def __repr__(self) -> str:
        score = "" if self.score is None else f", {self.report['metric']} {self.score:.4f}"
        return f"Point({self.budget}{score}, macs {self.macs:.3f}, params {self.params:.3f})"

    def load(self) -> nn.Module:
        """The model: the one in memory, or that in the directory.

        Raises:
            CheckpointError: the directory holds no whole model any more.
        """
        if self.model is not None:
            return self.model
        assert self.directory is not None
        loaded: nn.Module = load_pretrained(self.directory)
        return loaded

    def row(self) -> dict[str, Any]:
        """One line of a table: plain values."""
        report = self.report
        measured = report["latency_ms"] or {}
        return {
            "budget": self.budget,
            "metric": report["metric"],
            "score": self.score,
            "drop": self.drop,
            "macs": report["macs"]["pruned"],
            "macs_kept": self.macs,
            "params_total": report["params_total"]["pruned"],
            "params_total_kept": self.params,
            "params_prunable_kept": report["params"]["kept"],
            "latency_ms": self.latency,
            "dense_latency_ms": measured.get("dense"),
            "speedup": self.speedup,
            "heads": sum(report["units"]["heads"]),
            "filters": sum(report["units"]["filters"]),
            "seconds": report["timing_s"]["total"],
            "warnings": len(report["warnings"]),
            "directory": None if self.directory is None else self.directory.name,
        }
