"""Hostile inputs for every emulated operation, each checked against a float64 reference."""

from __future__ import annotations

import numpy as np
from emulator import Emulator

from emulated.block_lstsq import lstsq_cases
from emulated.common import Case
from emulated.fisher import fisher_cases, gram_cases
from emulated.greedy_rearrange import greedy_cases
from emulated.hard_concrete import hard_concrete_cases
from emulated.mask_grad import mask_grad_cases
from emulated.masked_norm import masked_norm_backward_cases, masked_norm_cases
from emulated.obs_greedy import obs_cases
from emulated.path_step import path_step_cases
from emulated.trajectory_distance import trajectory_cases
from emulated.tuning_system import tuning_cases

CASES: dict[str, Case] = {
    f"{op}: {name}": case
    for op, cases in {
        "mask_grad": mask_grad_cases, "gram": gram_cases, "fisher_outer": fisher_cases,
        "greedy_rearrange": greedy_cases, "tuning_system": tuning_cases, "block_lstsq": lstsq_cases,
        "obs_greedy": obs_cases, "trajectory_distance": trajectory_cases,
        "path_step": path_step_cases, "hard_concrete": hard_concrete_cases,
        "masked_norm": masked_norm_cases, "masked_norm_backward": masked_norm_backward_cases,
    }.items()
    for name, case in cases()
}  # fmt: skip


def run(emulator: Emulator, name: str) -> None:
    """One case, with numbers that depend on its name alone."""
    CASES[name](emulator, np.random.default_rng(list(name.encode())))
