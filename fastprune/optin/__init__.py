"""What a model loses with each of its units, found out by taking every one of them away.

OPTIN (Khaki & Plataniotis, ICLR 2024, arXiv 2403.17921): the trajectory of the model from which one
unit is missing, through all later layers and to the prediction, beside that of the dense model.
"""

from fastprune.optin.losses import Losses
from fastprune.optin.mixing import mixed, mixed_as_released
from fastprune.optin.scores import score_units

__all__ = ["Losses", "mixed", "mixed_as_released", "score_units"]
