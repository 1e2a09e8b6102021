"""The original algorithm, step for step, as the anchor to compare with."""

from fastprune.parity.kwon2022 import lsmr_scales, staged_teacher_budget

__all__ = ["lsmr_scales", "staged_teacher_budget"]
