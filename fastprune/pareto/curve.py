"""The curve of a sweep: which models nothing else beats, and which one to take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fastprune.errors import FastpruneError
from fastprune.evaluation.metrics import LOWER_IS_BETTER
from fastprune.pareto.conditions import parse_conditions
from fastprune.pareto.point import Point

Cost = Literal["macs", "params", "latency"]


@dataclass(frozen=True)
class Sweep:
    """Pruned models of one model, one per budget.

    Attributes:
        points: largest first.
        directory: where they were saved; None where they are in memory.
        seconds: that the sweep took, of wall time.
    """

    points: tuple[Point, ...]
    directory: Path | None = None
    seconds: float = 0.0

    @property
    def metric(self) -> str | None:
        """What scores are of; None where nothing was scored."""
        name = self.points[0].report["metric"]
        return None if name is None else str(name)

    @property
    def dense_score(self) -> float | None:
        """Score of the model before pruning."""
        score = self.points[0].report["dense"]["score"]
        return None if score is None else float(score)

    def pareto(self, cost: Cost = "macs") -> list[Point]:
        """The points that no other beats: none costs less and scores at least as well.

        Args:
            cost: ``"macs"``, ``"params"`` (shares that are left) or ``"latency"`` (measured).

        Raises:
            FastpruneError: nothing was scored, or the cost was not measured.
        """
        if self.metric is None:
            raise FastpruneError("nothing was scored in this sweep; give eval_data (--eval)")
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        worth = []
        for point in self.points:
            assert point.score is not None
            worth.append((_spent(point, cost), sign * point.score))
        return [
            point
            for point, (spent, score) in zip(self.points, worth, strict=True)
            if not any(s <= spent and q >= score and (s, q) != (spent, score) for s, q in worth)
        ]

    def pick(self, condition: str, *, smallest: Cost = "macs") -> Point:
        """The smallest model within a bound, such as ``"accuracy>=0.88"``.

        Args:
            condition: bounds on the metric by its name, or on ``score``, ``drop`` (how much worse
                than dense), ``macs``, ``params`` (shares), ``latency`` (milliseconds) or
                ``speedup``; several are separated by commas.
            smallest: by which cost.

        Raises:
            FastpruneError: a condition that is not understood, or that no point fulfils.
        """
        conditions = parse_conditions(condition, self.metric)
        fitting = [p for p in self.points if all(c.holds(p) for c in conditions)]
        if not fitting:
            nearest = [c.nearest(self.points) for c in conditions]
            raise FastpruneError(
                f"no model of this sweep has {condition} (nearest: {', '.join(nearest)}); loosen "
                "the condition or add other budgets"
            )
        return min(fitting, key=lambda point: _spent(point, smallest))


def _spent(point: Point, cost: Cost) -> float:
    if cost not in get_args(Cost):
        raise FastpruneError(f"unknown cost {cost!r}; use {', '.join(get_args(Cost))}")
    spent = getattr(point, cost)
    if spent is None:
        raise FastpruneError("latency was not measured in this sweep; give latency=True")
    return float(spent)
