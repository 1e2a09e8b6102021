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
    Where one sublayer more would be too much, sublayers stay as they are and the others' gates are
    moved on alone; where one head more would be, heads stay, too, and so on down to filters.

    Raises:
        BudgetError: not even closed gates are within it.
    """
    layout = gates.layout
    least, dense = layout.cost(gates.settled(_CLOSED)), layout.prices.dense
    if least > cost:
        raise BudgetError(
            f"with these gates {least / dense:.3g} of the {layout.kind} is the least that is left, "
            f"and {cost / dense:.3g} is asked for; gate more kinds of parts, or raise the budget"
        )

    def fits(values: GateValues) -> bool:
        return layout.cost(values) <= cost

    # What is dear can be too much where what is cheap is not, so the dearest stays as it is first.
    # Of sublayers, which all go at once where they are as likely as each other, one stays.
    fixed: dict[str, float] = {}
    shift = _CLOSED
    for kind in ("sublayers", "heads", "hidden", "filters"):
        shift = _largest(lambda shift: fits(gates.settled(shift, fixed)), shift)
        fixed[kind] = shift
        first = gates.first_sublayer()
        if kind == "sublayers" and shift < first and fits(gates.settled(_CLOSED, {kind: first})):
            fixed[kind], shift = first, _CLOSED
    return gates.settled(shift, fixed)


def _largest(fits: Callable[[float], bool], least: float) -> float:
    """The largest shift that fits, as ``least`` does."""
    low, high = least, _OPEN
    if fits(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
