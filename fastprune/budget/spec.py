"""Budgets: ``macs=0.5`` (a share of the dense model), ``macs=250M`` or ``latency=12ms``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from fastprune.errors import BudgetError

BudgetKind = Literal["macs", "params", "latency"]
_SUFFIXES = {"K": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = re.compile(
    r"^\s*([+-]?(?:\d+\.?\d*|\.\d+|nan|inf)(?:e[+-]?\d+)?)\s*([KMG]|ms|)\s*$", re.I
)
_FORM = (
    "write macs=0.5, params=0.6 or latency=0.7 for a share, macs=250M or latency=12ms for an "
    "absolute number"
)


@dataclass(frozen=True)
class Budget:
    """An upper bound on what a model may cost.

    Attributes:
        kind: ``"macs"`` (multiply-accumulates of one sequence) or ``"params"`` (elements), of the
            prunable part; ``"latency"`` (of one forward pass), of the whole model.
        value: a share in (0, 1) when ``relative``, else a count, or milliseconds.
        relative: whether ``value`` is a share of the model as it was handed in.
    """

    kind: BudgetKind
    value: float
    relative: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(BudgetKind):
            *known, last = get_args(BudgetKind)
            raise BudgetError(
                f"unknown budget {self.kind!r}: {', '.join(known)} and {last} are known; {_FORM}"
            )
        if not math.isfinite(self.value) or self.value <= 0:
            raise BudgetError(f"budget {self.kind}={self.value} must be a positive number; {_FORM}")
        if self.relative and self.value >= 1:
            raise BudgetError(
                f"budget {self.kind}={self.value:g} keeps everything: a share must lie between "
                f"0 and 1; {_FORM}"
            )

    def __str__(self) -> str:
        if self.relative:
            return f"{self.kind}={self.value:g}"
        if self.kind == "latency":
            return f"{self.kind}={self.value:g}ms"
        for suffix, scale in reversed(_SUFFIXES.items()):
            if self.value >= scale:
                return f"{self.kind}={self.value / scale:g}{suffix}"
        return f"{self.kind}={self.value:g}"

    def limit(self, dense: float) -> float:
        """The bound as an absolute number, ``dense`` being the cost of the model as it is.

        Raises:
            BudgetError: an absolute budget that is not below ``dense``.
        """
        if self.relative:
            return self.value * dense
        if self.value >= dense:
            what = "a pass of the model" if self.kind == "latency" else "the model's prunable part"
            raise BudgetError(f"budget {self} keeps everything: {what} costs {self.amount(dense)}")
        return self.value

    def amount(self, cost: float) -> str:
        """A cost in the unit of this budget, for people."""
        return f"{cost:.4g} ms" if self.kind == "latency" else f"{cost:.4g} {self.kind}"

    def part_way(self, dense: float, fraction: float) -> Budget:
        """A budget on the way to this one: equal fractions shrink a model by equal factors.

        Args:
            dense: the cost of the model as it is.
            fraction: 0 is the model as it is, 1 this budget.
        """
        return replace(self, value=(self.limit(dense) / dense) ** fraction, relative=True)

    def absolute(self, dense: float) -> Budget:
        """The same bound as an absolute number, ``dense`` being the cost of the model as it is."""
        return replace(self, value=self.limit(dense), relative=False)


def parse_budget(value: Budget | str | float | Mapping[str, object]) -> Budget:
    """Read a budget in any of the forms users write.

    Args:
        value: a ``Budget``, ``"macs=0.5"``, ``"latency=12ms"``, ``{"macs": 0.5}``, or a bare
            number, which is a share of MACs.

    Raises:
        BudgetError: a form that is not understood, or a value out of range.
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise BudgetError(f"a budget names exactly one bound, got {dict(value)!r}; {_FORM}")
        ((kind, amount),) = value.items()
        return _budget(str(kind), str(amount))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _budget("macs", repr(float(value)))
    if isinstance(value, str):
        kind, separator, amount = value.partition("=")
        return _budget(kind, amount) if separator else _budget("macs", kind)
    raise BudgetError(f"cannot read {value!r} as a budget; {_FORM}")


def round_up(share: float) -> float:
    """Four decimals, never below ``share``, so that a budget that is suggested is reachable."""
    return math.ceil(share * 1e4) / 1e4


def _budget(kind: str, amount: str) -> Budget:
    kind = kind.strip().lower()
    match = _NUMBER.match(amount)
    suffix = "" if match is None else match[2].upper()
    if match is None or (suffix and (suffix == "MS") != (kind == "latency")):
        raise BudgetError(f"cannot read {amount!r} as a budget; {_FORM}")
    return Budget(
        kind=cast(BudgetKind, kind),
        value=float(match[1]) * _SUFFIXES.get(suffix, 1.0),
        relative=not suffix,
    )
