"""A minute of training under gates on the real classifier: it gets there, and keeps its sense."""

from __future__ import annotations

from dataclasses import replace

from fastprune import GateTraining, Training, prune
from fastprune.structure.stream import stream_width

STEPS = Training(epochs=1, batch_size=32, learning_rate=3e-4, group_by_length=True)
QUICK = GateTraining(training=STEPS, finetuning=replace(STEPS, epochs=0.5), gate_rate=0.2, ramp=0.6)
SHARE = 0.2
CHANCE = 0.51
"""Share of the larger class in the validation sentences."""


def test_a_minute_of_training(sst2: dict[str, str]) -> None:
    result = prune(
        sst2["model"],
        sst2["train"],
        f"params={SHARE}",
        method="cofi",
        eval_data=sst2["validation"],
        training=QUICK,
        samples=3200,
        latency=False,
    )
    report = result.report
    assert report.training is not None
    # So short a training overshoots; what is left is what was asked for all the same.
    assert report.training["sparsity"]["expected"] > 1 - SHARE - 0.01
    assert report.warnings == []
    assert SHARE - 0.01 <= report.params.kept <= SHARE
    assert report.score.pruned > CHANCE + 0.1
    width = stream_width(result.model)
    assert width is not None
    assert report.units["hidden dimensions"] == [width]
