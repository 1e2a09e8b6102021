"""The original algorithm, step for step, as the anchor to compare with."""

from fastprune.parity.kwon2022 import RELEASED_TUNER, lsmr_scales

__all__ = ["RELEASED_TUNER", "lsmr_scales"]
