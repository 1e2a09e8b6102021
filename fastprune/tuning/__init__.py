"""How the units that stay are corrected for those that went: layer-wise least squares."""

from fastprune.tuning.copies import copy_projections
from fastprune.tuning.means import keep_means
from fastprune.tuning.solvers import Tuner
from fastprune.tuning.tune import TUNERS, tune, tune_together
from fastprune.tuning.walk import SiteTuning

__all__ = [
    "TUNERS",
    "SiteTuning",
    "Tuner",
    "copy_projections",
    "keep_means",
    "tune",
    "tune_together",
]
