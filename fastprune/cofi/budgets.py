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

    # Sublayers that are as likely as each other go together; of all of them the likeliest stays.
    shift = _largest(lambda shift: fits(gates.settled(shift)), _CLOSED)
    fixed, first = {"sublayers": shift}, gates.first_sublayer()
    if shift < first and fits(gates.settled(_CLOSED, {"sublayers": first})):
        fixed["sublayers"], shift = first, _CLOSED
    # What is dear can be too much where what is cheap is not, so the dearest is settled first.
    for kind in ("heads", "hidden", "filters"):
        shift = _largest(lambda shift: fits(gates.settled(shift, fixed)), shift)
        fixed[kind] = shift
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
