"""From gates to masks that keep within a budget."""

from __future__ import annotations

from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.values import GateValues
from fastprune.errors import BudgetError

_HALVINGS = 40


def within(gates: Gates, cost: float) -> GateValues:
    """Settled values of what may cost so much at most, in the unit of the gates' layout.

    All alphas are moved by one number, the smallest that will do: what the gates think of each
    other stays as it is.

    Raises:
        BudgetError: not even closed gates are within it.
    """
    layout = gates.layout
    # Beyond these every gate is closed, or as open as it gets.
    low, high = -4 * LARGEST, 2 * LARGEST
    least = gates.settled(low)
    if layout.cost(least) > cost:
        raise BudgetError(
            f"with these gates the model costs {layout.cost(least):.4g} at least, and "
            f"{cost:.4g} is asked for; gate more kinds of parts, or raise the budget"
        )
    if layout.cost(gates.settled()) <= cost:
        low = 0.0
    else:
        high = 0.0
    best = gates.settled(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        values = gates.settled(middle)
        if layout.cost(values) <= cost:
            low, best = middle, values
        else:
            high = middle
    return best
