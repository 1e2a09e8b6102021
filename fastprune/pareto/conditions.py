"""Conditions on a point of a curve, as users write them: ``accuracy>=0.88, speedup>1.5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from fastprune.errors import FastpruneError
from fastprune.pareto.point import Point

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"^\s*([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*(\S+)\s*$")
QUANTITIES = ("score", "drop", "macs", "params", "latency", "speedup")
"""What can be asked of a point, besides its metric by name."""


@dataclass(frozen=True)
class Condition:
    """A bound on one quantity of a point.

    Attributes:
        name: one of :data:`QUANTITIES`.
        sign: how the quantity compares with ``bound``.
        bound: a number.
    """

    name: str
    sign: str
    bound: float

    def holds(self, point: Point) -> bool:
        """Whether a point is within the bound.

        Raises:
            FastpruneError: the quantity was not measured.
        """
        value = getattr(point, self.name)
        if value is None:
            raise self.unmeasured()
        return _OPERATORS[self.sign](value, self.bound)

    def nearest(self, points: Sequence[Point]) -> str:
        """What comes closest to the bound, or goes furthest beyond it."""
        best = max if self.sign in (">=", ">") else min
        point = best(points, key=lambda p: getattr(p, self.name))
        return f"{self.name} {getattr(point, self.name):.4g} at {point.budget}"

    @property
    def timed(self) -> bool:
        """Whether it is about time, and not about a score or a size."""
        return self.name in ("latency", "speedup")

    @property
    def scored(self) -> bool:
        """Whether it is about a score."""
        return self.name in ("score", "drop")

    def unmeasured(self) -> FastpruneError:
        """What to say where its quantity is not known."""
        cure = "latency=True" if self.timed else "eval_data (--eval)"
        return FastpruneError(f"{self.name} is not measured in this sweep; give {cure}")


def check_conditions(text: str, metric: str | None, *, timed: bool) -> None:
    """Refuse what no sweep can answer, before it starts.

    Args:
        text: as for :func:`parse_conditions`.
        metric: that will be scored; None = nothing will be.
        timed: whether latency will be measured.

    Raises:
        FastpruneError: a form or a name that is not understood, or what will not be measured.
    """
    for condition in parse_conditions(text, metric):
        if (condition.scored and metric is None) or (condition.timed and not timed):
            raise condition.unmeasured()


def parse_conditions(text: str, metric: str | None) -> Sequence[Condition]:
    """Read one condition, or several that must all hold, separated by commas.

    Args:
        text: such as ``"accuracy>=0.88"`` or ``"drop<=0.01, latency<20"``.
        metric: that of the sweep, which may be called by its name; None = any name will do.

    Raises:
        FastpruneError: a form or a name that is not understood.
    """
    return [_parse(part, metric) for part in text.split(",")]


def _parse(text: str, metric: str | None) -> Condition:
    match = _CONDITION.match(text)
    if match is None:
        raise FastpruneError(
            f"cannot read {text.strip()!r} as a condition; write a name, a comparison and a number,"
            ' such as "accuracy>=0.88"'
        )
    name, sign, number = match.groups()
    try:
        bound = float(number)
    except ValueError:
        bound = float("nan")
    if bound != bound:
        raise FastpruneError(f"{number!r} in {text.strip()!r} is not a number")
    if name in QUANTITIES:
        return Condition(name, sign, bound)
    if metric is None or name == metric:
        return Condition("score", sign, bound)
    known = [metric, *QUANTITIES]
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise FastpruneError(f"{name!r} is nothing that was measured: {', '.join(known)} are{hint}")
