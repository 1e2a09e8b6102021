"""The original algorithm, step for step, as the anchor to compare with."""

from fastprune.parity.kwon2022 import RELEASED_TUNER, lsmr_scales, released_scales
from fastprune.parity.lsmr import LAST_SUCCESS, damped_lsmr

__all__ = ["LAST_SUCCESS", "RELEASED_TUNER", "damped_lsmr", "lsmr_scales", "released_scales"]
