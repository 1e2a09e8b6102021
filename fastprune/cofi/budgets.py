"""From gates to masks that keep within a budget."""

from __future__ import annotations

from collections.abc import Callable

from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.values import GateValues
from fastprune.errors import BudgetError

_HALVINGS = 40
_CLOSED, _OPEN = -4 * LARGEST, 2 * LARGEST
"""Added to alphas, these leave every gate closed, or as open as it gets."""


def within(gates: Gates, cost: float) -> GateValues:
    """Settled values of what may cost so much at most, in the unit of the gates' layout.

    All alphas are moved by one number, so that what the gates think of each other stays as it is.
    A sublayer more can be far too much: those that are open then stay as they are, and the others'
    gates are moved on alone.

    Raises:
        BudgetError: not even closed gates are within it.
    """
    layout = gates.layout
    least = layout.cost(gates.settled(_CLOSED))
    if least > cost:
        raise BudgetError(
            f"with these gates the model costs {least:.4g} at least, and {cost:.4g} is asked for; "
            "gate more kinds of parts, or raise the budget"
        )

    def fits(values: GateValues) -> bool:
        return layout.cost(values) <= cost

    together = _largest(lambda shift: fits(gates.settled(shift)), _CLOSED)
    alone = _largest(lambda shift: fits(gates.settled(shift, sublayers=together)), together)
    return gates.settled(alone, sublayers=together)


def _largest(fits: Callable[[float], bool], least: float) -> float:
    """The largest shift that fits, as ``least`` does."""
    low, high = least, _OPEN
    if fits(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
