"""What scoring finds out about units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """What a model loses with each of some units; both float64 [units], and not negative.

    Attributes:
        trajectory: L_MD. With ``S`` and ``T`` the features of a layer without the unit and with
            it, every row of unit length, the sum over later layers of ``|S S' - T T'|^2``
            (Frobenius).
        prediction: L_KD. 16 times the Kullback-Leibler divergence from the dense model's
            prediction, summed over samples; for regression and embeddings the squared error.
    """

    trajectory: Tensor
    prediction: Tensor
