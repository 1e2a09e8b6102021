"""What cannot be trained is refused before it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from gated_models import layout as layout_of
from gated_models import tiny_float
from small_trainings import SHORT, STEPS, trained
from tiny_models import tiny
from tiny_samples import image_samples, text_samples
from transformers import BertForSequenceClassification

from fastprune import GateTraining, prune
from fastprune.cofi.gates import Gates
from fastprune.data import Samples
from fastprune.errors import (
    BudgetError,
    DataError,
    FastpruneError,
    NumericalError,
    UnsupportedModelError,
)


def test_layers_that_are_run_again_are_refused(samples: Samples) -> None:
    """By then their gates would be gone, and gradients would be wrong in silence."""
    model = tiny_float("bert").train()
    model.gradient_checkpointing_enable()
    with pytest.raises(FastpruneError, match="gradient checkpointing off"):
        trained(model, samples)


def test_frozen_models_are_refused(samples: Samples) -> None:
    model = tiny_float("bert").requires_grad_(False)
    with pytest.raises(FastpruneError, match="all weights but embeddings are frozen"):
        trained(model, samples)


class TaggedForSequenceClassification(BertForSequenceClassification):
    """Reads hidden dimensions in a place of its own."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.tagger = torch.nn.Linear(config.hidden_size, 3)

    def forward(self, **batch: Any) -> Any:
        found = super().forward(**batch, output_hidden_states=True)
        tags = self.tagger(found.hidden_states[-1])
        if found.loss is not None:
            found.loss = found.loss + tags.square().mean()
        return found


def test_heads_of_ones_own_keep_hidden_dimensions(samples: Samples) -> None:
    model = TaggedForSequenceClassification(tiny("bert").config)
    training = replace(SHORT, distillation="none")
    result = trained(model, samples, training=training)
    assert result.hidden is None
    assert result.report.params.kept <= 0.4
    with pytest.raises(
        UnsupportedModelError,
        match="does not run without some of its",
    ):
        trained(model, samples, training=replace(training, gates=("filters", "hidden")))


@pytest.mark.parametrize("name", ["seed", "dtype", "progress"])
def test_what_a_run_has_in_common_is_said_once(name: str, samples: Samples) -> None:
    value = {"seed": 3, "dtype": torch.bfloat16, "progress": True}[name]
    training = replace(SHORT, finetuning=replace(STEPS, **{name: value}))
    with pytest.raises(FastpruneError, match=f"{name} is one of the whole run"):
        trained(tiny_float("bert"), samples, training=training)


def test_gates_that_are_not_finite_are_not_settled() -> None:
    gates = Gates(layout_of(tiny_float("bert")))
    with torch.no_grad():
        gates.alpha[3] = float("nan")
    with pytest.raises(NumericalError, match="finite"):
        gates.settled()


def test_weights_that_layers_share_are_refused_before_training(samples: Samples) -> None:
    model = tiny_float("bert")
    layers = model.bert.encoder.layer
    layers[2].output.dense.weight = layers[0].output.dense.weight
    started = []

    def loss(outputs: Any, batch: Any) -> None:
        started.append(batch)

    with pytest.raises(UnsupportedModelError, match="shared with another module"):
        trained(model, samples, training=replace(SHORT, distillation="none", loss=loss))
    assert not started


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gates": ()}, "no gates to train"),
        ({"gates": ("tails",)}, "unknown gates 'tails'"),
        ({"distillation": "all"}, "unknown distillation"),
        ({"matching": "v4"}, "unknown matching"),
        ({"teacher_layers": "some"}, "unknown teacher_layers"),
        ({"start": "closed"}, "unknown start"),
        ({"ramp": 1.5}, "between 0 and 1"),
        ({"layer_share": -1}, "between 0 and 1"),
        ({"gate_rate": 0}, "positive"),
        ({"temperature": float("nan")}, "positive"),
        ({"tolerance": True}, "between 0 and 1"),
        ({"loss": max}, "distillation='none'"),
        ({"loss": abs, "distillation": "none"}, "function of outputs and batch"),
        ({"loss": lambda outputs: 0, "distillation": "none"}, "function of outputs and batch"),
        ({"checkpoints": "x", "resume": []}, "resume must be True or False"),
        ({"resume": True}, "directory of the checkpoints"),
        ({"training": 3}, "Training"),
        ({"gates": "heads"}, "list of names"),
        ({"gates": 5}, "list of names"),
        ({"checkpoints": 5}, "must be a directory"),
        ({"loss": 5, "distillation": "none"}, "must be a function"),
        ({"temperature": 1e300}, "of a sane size"),
        ({"gate_rate": 1e308}, "of a sane size"),
    ],
)
def test_bad_choices_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(FastpruneError, match=says):
        GateTraining(**changes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tune": "weights"}, "does not go with tune=weights"),
        ({"stages": 2}, "does not go with stages"),
        ({"uniform": True}, "does not go with uniform"),
        ({"granularity": "dimensions"}, "whole heads"),
        ({"preset": "kwon2022"}, "preset"),
    ],
)
def test_settings_it_cannot_honour(options: dict[str, Any], says: str, samples: Samples) -> None:
    with pytest.raises(FastpruneError, match=says):
        trained(tiny_float("bert"), samples, **options)


def test_latency_budgets_are_refused(samples: Samples) -> None:
    with pytest.raises(FastpruneError, match="does not go with latency"):
        trained(tiny_float("bert"), samples, "latency=0.5")


def test_methods_that_do_not_train_take_no_training(samples: Samples) -> None:
    with pytest.raises(FastpruneError, match="does not train"):
        prune(tiny_float("bert"), samples, "macs=0.5", method="obs", training=SHORT)


def test_samples_without_labels_are_refused() -> None:
    unlabelled = text_samples("classification", labels=False)
    with pytest.raises(DataError, match="labels"):
        trained(tiny_float("bert"), unlabelled)


def test_budgets_that_gates_cannot_meet_are_refused_before_training(samples: Samples) -> None:
    with pytest.raises(BudgetError, match="is the least that is left"):
        trained(
            tiny_float("bert"), samples, "params=0.2", training=replace(SHORT, gates=("heads",))
        )


def test_models_that_cannot_have_a_gate_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="not declared"):
        trained(tiny_float("vit"), image_samples(), training=replace(SHORT, gates=("hidden",)))


def test_few_steps_are_said_beforehand(samples: Samples) -> None:
    with pytest.warns(RuntimeWarning, match="12 steps under gates are few: .* about 60 to settle"):
        trained(tiny_float("bert"), samples)


@pytest.mark.parametrize(
    ("labels", "says"),
    [(torch.rand(16), "whole numbers"), (torch.full((16,), float("nan")), "not finite")],
)
def test_labels_of_other_types(labels: torch.Tensor, says: str, samples: Samples) -> None:
    data = replace(samples, labels=labels)
    with pytest.raises(DataError, match=says):
        trained(tiny_float("bert"), data)


def test_models_that_put_out_tuples_are_refused(samples: Samples) -> None:
    model = tiny_float("bert")
    model.config.return_dict = False
    with pytest.raises(FastpruneError, match="return_dict = True"):
        trained(model, samples)
