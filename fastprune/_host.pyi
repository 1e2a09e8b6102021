"""Types of the compiled module; see csrc/host/module.cpp."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def budget_search(
    head_importance: NDArray[np.float64],
    filter_importance: NDArray[np.float64],
    head_cost: float,
    filter_cost: float,
    budgets: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...
def allocate(
    errors: Sequence[NDArray[np.float64]],
    costs: Sequence[NDArray[np.float64]],
    budgets: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]: ...
def build_info() -> dict[str, str]: ...
