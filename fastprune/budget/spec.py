"""Budgets: ``macs=0.5`` (a share of the dense model) or ``macs=250M`` (an absolute number)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from fastprune.errors import BudgetError

BudgetKind = Literal["macs", "params"]
_SUFFIXES = {"K": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+|nan|inf)(?:e[+-]?\d+)?)\s*([KMG]?)\s*$", re.I)
_FORM = "write macs=0.5 or params=0.6 for a share, macs=250M for an absolute number"


@dataclass(frozen=True)
class Budget:
    """An upper bound on what the prunable part of a model may cost.

    Attributes:
        kind: ``"macs"`` (multiply-accumulates of one sequence) or ``"params"`` (elements).
        value: a share in (0, 1) when ``relative``, else a count.
        relative: whether ``value`` is a share of the model as it was handed in.
    """

    kind: BudgetKind
    value: float
    relative: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(BudgetKind):
            known = " and ".join(get_args(BudgetKind))
            raise BudgetError(f"unknown budget {self.kind!r}: {known} are known; {_FORM}")
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
            raise BudgetError(
                f"budget {self} keeps everything: the model's prunable part costs {dense:.4g}"
            )
        return self.value

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
        value: a ``Budget``, ``"macs=0.5"``, ``"params=3.5M"``, ``{"macs": 0.5}``, or a bare
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


def _budget(kind: str, amount: str) -> Budget:
    match = _NUMBER.match(amount)
    if match is None:
        raise BudgetError(f"cannot read {amount!r} as a budget; {_FORM}")
    number, suffix = float(match[1]), match[2].upper()
    kind = kind.strip().lower()
    return Budget(
        kind=cast(BudgetKind, kind),
        value=number * _SUFFIXES.get(suffix, 1.0),
        relative=not suffix,
    )
