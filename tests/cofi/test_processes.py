"""Several processes train one student: each on its own batches, all to the same gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gated_models import tiny_float
from interruptions import counting, interrupted
from ranks import run_ranks
from tiny_samples import text_samples

from fastprune import GateTraining, Training, data_parallel, prune
from fastprune.cofi.gates import Gates

STEPS = Training(epochs=4, batch_size=2, accumulate=2, learning_rate=1e-3, group_by_length=True)
STEPS = replace(STEPS, save_every=3)
TRAINING = GateTraining(training=STEPS, finetuning=replace(STEPS, epochs=1), gate_rate=0.5)
SAMPLES, PROCESSES = 32, 2
UNDER_GATES, AFTERWARDS = 16, 4
"""Steps of 32 samples in batches of two, two batches a step, by two processes."""


def train(checkpoints: Path, **choices: Any) -> tuple[dict[str, Any], dict[str, Any], int, Any]:
    """Report and weights, how many steps that took, and draws of the hidden dimensions' gates."""
    samples = text_samples("classification", SAMPLES)
    draw, drawn = Gates.draw, []

    def noted(self: Any) -> Any:
        found = draw(self)
        drawn.append(found[0].hidden.detach().clone())
        return found

    with pytest.MonkeyPatch.context() as patch, counting(patch) as steps:
        patch.setattr(Gates, "draw", noted)
        result = prune(
            tiny_float("bert"),
            samples,
            "params=0.4",
            method="cofi",
            eval_data=samples,
            training=replace(TRAINING, checkpoints=checkpoints, **choices),
            latency=False,
        )
    return result.report.to_dict(), result.model.state_dict(), len(steps), drawn


def whole_and_resumed(folder: Path) -> list[Any]:
    """An uninterrupted training, and one that is stopped in its second epoch and goes on."""
    with data_parallel():
        whole = train(folder / "whole")
        with pytest.MonkeyPatch.context() as patch, interrupted(patch, 7):
            train(folder / "stopped")
        return [whole, train(folder / "stopped", resume=True)]


def test_processes_train_together_and_go_on_together(tmp_path: Path) -> None:
    first, second = run_ranks(PROCESSES, tmp_path, whole_and_resumed, tmp_path)
    for ours, theirs in zip(first, second, strict=True):
        assert ours[0] == theirs[0]
        for name, value in ours[1].items():
            assert torch.equal(value, theirs[1][name]), name
    # Each has drawn gates of its own, from the first step on.
    for ours, theirs in zip(first[0][3], second[0][3], strict=True):
        assert not torch.equal(ours, theirs)
    whole, resumed = first
    assert whole[0]["params"]["kept"] <= 0.4
    assert whole[2] == UNDER_GATES + AFTERWARDS
    assert resumed[2] == UNDER_GATES - 6 + AFTERWARDS  # from the checkpoint of step 6 on
    for name, value in whole[1].items():
        assert torch.equal(value, resumed[1][name]), name
