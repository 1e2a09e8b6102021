"""Trainings of a few steps, and what is looked at in what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fastprune import GateTraining, Training, prune
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.structure import layer_units

STEPS = Training(epochs=3, batch_size=4, learning_rate=1e-3, group_by_length=True)


SHORT = GateTraining(training=STEPS, finetuning=replace(STEPS, epochs=1), gate_rate=0.5, ramp=0.3)


def trained(model: Any, data: Any, budget: str = "params=0.4", **options: Any) -> Any:
    given = {"training": SHORT, "latency": False, **options}
    return prune(model, data, budget, method="cofi", **given)


def logits(model: Any, samples: Samples) -> torch.Tensor:
    with torch.no_grad():
        return model(**model_inputs(next(samples.batches(8))))[0]


def assert_same(ours: Any, theirs: Any) -> None:
    assert layer_units(ours) == layer_units(theirs)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
