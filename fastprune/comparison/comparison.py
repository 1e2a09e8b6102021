"""What a comparison found: every way's scores over budgets, mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastprune.comparison.trial import Cell, Trial
from fastprune.comparison.ways import Way


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: the mean.
        deviation: standard deviation of a single seed (n - 1); None of a single one.
        count: how many seeds.
    """

    value: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        return f"{self.value:.4f}{spread}"


@dataclass(frozen=True)
class Comparison:
    """Trials of several ways to prune one model.

    Attributes:
        trials: in the order they were made.
        left_out: combinations that no run can honour, and why.
        directory: where it was saved; None where it was not.
    """

    trials: tuple[Trial, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None

    @property
    def metric(self) -> str:
        """What was scored."""
        return self.trials[0].metric

    @property
    def dense(self) -> float:
        """Score of the model before pruning."""
        return self.trials[0].dense

    @property
    def ways(self) -> list[Way]:
        """What was compared, each once."""
        return list(dict.fromkeys(trial.way for trial in self.trials))

    @property
    def budgets(self) -> list[str]:
        """What was spent, as asked."""
        return list(dict.fromkeys(cell.budget for trial in self.trials for cell in trial.cells))

    def score(self, way: Way, budget: str) -> Mean:
        """Of one way at one budget, over the seeds."""
        return Mean.of([cell.score for cell in self._cells(way, budget)])

    @property
    def warnings(self) -> list[str]:
        """What reports had to say, with what it is about."""
        told = {
            f"{trial.way}, {cell.budget}, seed {trial.seed}: {warning}": None
            for trial in self.trials
            for cell in trial.cells
            for warning in cell.warnings
        }
        return list(told)

    def macs(self, way: Way, budget: str) -> float:
        """Mean share of the prunable part's multiply-accumulates that is left."""
        return statistics.fmean(cell.macs for cell in self._cells(way, budget))

    @property
    def on_processor(self) -> bool:
        """Whether all of the work was the processor's."""
        return all(trial.device == "cpu" for trial in self.trials)

    @property
    def clock(self) -> str:
        """What :meth:`seconds` are of."""
        return "processor seconds" if self.on_processor else "seconds"

    def seconds(self, way: Way) -> float:
        """What one budget takes with a way, from calibration on: median of budgets and seeds.

        Of processor time where a processor did all of the work, else by the clock.
        """
        return statistics.median(
            cell.processor_seconds if self.on_processor else cell.seconds
            for budget in self.budgets
            for cell in self._cells(way, budget)
        )

    def rows(self) -> list[dict[str, Any]]:
        """One line per way and budget: plain values."""
        rows = []
        for way in self.ways:
            for budget in self.budgets:
                cells, score = self._cells(way, budget), self.score(way, budget)
                timed = [cell.latency_ms for cell in cells if cell.latency_ms is not None]
                rows.append(
                    {
                        "method": way.method,
                        "tune": way.tune,
                        "budget": budget,
                        "metric": self.metric,
                        "score": score.value,
                        "deviation": score.deviation,
                        "seeds": score.count,
                        "macs_kept": self.macs(way, budget),
                        "params_total_kept": statistics.fmean(cell.params for cell in cells),
                        "latency_ms": statistics.fmean(timed) if timed else None,
                        "seconds": statistics.median(cell.seconds for cell in cells),
                        "processor_seconds": statistics.median(
                            cell.processor_seconds for cell in cells
                        ),
                        "warnings": sum(len(cell.warnings) for cell in cells),
                    }
                )
        return rows

    def _cells(self, way: Way, budget: str) -> list[Cell]:
        return [
            cell
            for trial in self.trials
            if trial.way == way
            for cell in trial.cells
            if cell.budget == budget
        ]
