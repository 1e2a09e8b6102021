"""Training under gates from end to end: what comes out, is resumed, and is refused."""

from __future__ import annotations

import json
import os
import random
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gated_models import layout as layout_of
from gated_models import tiny_float
from interruptions import counting, interrupted, stopping
from tiny_models import tiny
from tiny_samples import image_samples, samples_for, text_samples
from torch.nn import functional
from transformers import BertForSequenceClassification

import fastprune
from fastprune import GateTraining, Training, prune
from fastprune.atomic import locked
from fastprune.cli import main
from fastprune.cofi.distillation import Distillation
from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.goal import Goal
from fastprune.cofi.lagrangian import Lagrangian
from fastprune.cofi.start import fisher_start
from fastprune.cofi.student import Student
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.errors import (
    BudgetError,
    CheckpointError,
    DataError,
    FastpruneError,
    NumericalError,
    UnsupportedModelError,
)
from fastprune.structure import layer_units
from fastprune.structure.stream import stream_width
from fastprune.training.loop import batch_inputs

STEPS = Training(epochs=3, batch_size=4, learning_rate=1e-3, group_by_length=True)
SHORT = GateTraining(training=STEPS, finetuning=replace(STEPS, epochs=1), gate_rate=0.5, ramp=0.3)


@pytest.fixture
def samples() -> Samples:
    return text_samples("classification", 16)


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


FAMILIES = ["bert", "roberta", "distilbert", "electra", "vit", "gpt2", "opt", "llama"]


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_tasks(family: str, kind: str, tmp_path: Path) -> None:
    data, model = samples_for(family), tiny_float(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = trained(model, data, f"{kind}=0.4")
    size = getattr(result.report, kind)
    assert 0.1 < size.kept <= 0.4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    result.save_pretrained(tmp_path / "m")
    loaded = fastprune.load_pretrained(tmp_path / "m")
    assert torch.equal(logits(loaded, data), logits(result.model, data))
    assert stream_width(result.model) == (None if family == "vit" else stream_width(loaded))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_on_a_gpu(family: str, dtype: str) -> None:
    data = samples_for(family, count=16)
    result = trained(tiny_float(family).cuda(), data, eval_data=data, dtype=dtype)
    assert 0.3 < result.report.params.kept <= 0.4
    assert {p.device.type for p in result.model.parameters()} == {"cuda"}


@pytest.mark.parametrize("gates", ["heads", "filters", "sublayers", "hidden"])
def test_any_kind_of_gate_alone(gates: str, samples: Samples) -> None:
    result = trained(
        tiny_float("bert"), samples, "params=0.9", training=replace(SHORT, gates=(gates,))
    )
    units, width = layer_units(result.model), stream_width(result.model)
    whole = all(n in (0, 4) for n in units["attention"])
    assert (width < 32) == (gates == "hidden")
    assert all(n in (0, 37) for n in units["ffn"]) == (gates != "filters")
    assert whole == (gates != "heads")
    assert result.report.params.kept <= 0.9


@pytest.fixture(scope="module")
def taught() -> tuple[Any, Samples]:
    """A model that tells high numbers of tokens from low ones, and sentences of either."""
    data = text_samples("classification", 32)
    assert data.labels is not None
    features = [
        {**sample, "input_ids": [4 + token % 26 + 26 * label for token in sample["input_ids"]]}
        for sample, label in zip(data.features, data.labels.tolist(), strict=True)
    ]
    data = replace(data, features=features)
    torch.manual_seed(0)
    model = tiny_float("bert")
    steps = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        model(**batch_inputs(data, list(range(32)))).loss.backward()
        steps.step()
        steps.zero_grad()
    return model, data


@pytest.mark.parametrize("distillation", ["layers", "prediction", "none"])
def test_a_model_learns_to_do_with_less(distillation: str, taught: tuple[Any, Samples]) -> None:
    """What is cut as far without training is about as good as chance."""
    model, data = taught
    steps = Training(
        epochs=30, batch_size=8, learning_rate=3e-3, save_every=15, group_by_length=True
    )
    training = GateTraining(
        training=steps, finetuning=steps, distillation=distillation, gate_rate=0.15
    )
    found = trained(model, data, "params=0.5", eval_data=data, training=training)
    assert found.report.training["sparsity"]["expected"] > 0.49
    assert not found.report.warnings
    assert found.report.score.dense == 1
    assert found.report.score.pruned > 0.9
    cut = fastprune.compact(model, found.masks, hidden=found.hidden)
    assert fastprune.evaluate(cut, data) < 0.75


def test_a_loss_of_ones_own(samples: Samples) -> None:
    seen = []

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        seen.append(sorted(batch))
        return outputs.logits.square().mean()

    training = replace(SHORT, distillation="none", loss=loss)
    result = trained(tiny_float("bert"), samples, training=training)
    assert len(seen) == 12 + 4
    assert seen[0] == ["attention_mask", "input_ids", "labels"]
    assert ".loss " in result.report.training["loss"]


@pytest.mark.parametrize("family", ["bert", "electra", "gpt2", "opt", "llama"])
def test_embeddings_stay_what_they_were(family: str) -> None:
    model, data = tiny_float(family), samples_for(family, count=16)
    result = trained(model, data, training=replace(SHORT, gates=("heads", "filters")))
    tables = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Embedding)]
    before, after = model.state_dict(), result.model.state_dict()
    for table in tables:
        assert torch.equal(after[f"{table}.weight"], before[f"{table}.weight"])
    same = [n for n, v in after.items() if v.shape == before[n].shape and torch.equal(v, before[n])]
    shared = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert {n for n in same if "norm" in n.lower() or "project" in n} == set()
    assert len(set(same) - shared) <= len(tables) + 3  # and biases of keys, which do nothing


@pytest.mark.parametrize(
    ("family", "distillation", "after"),
    [("gpt2", "layers", 2), ("bert", "layers", 7), ("gpt2", "none", 13), ("bert", "none", 13)],
)
def test_an_interrupted_one_goes_on_as_if_nothing_had_happened(
    family: str, distillation: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under gates (12 steps) and afterwards (4 steps)."""
    model, every = tiny_float(family), replace(STEPS, save_every=2)
    data = samples_for(family, count=16)
    training = GateTraining(training=every, finetuning=replace(every, epochs=1), gate_rate=0.5)
    training = replace(training, distillation=distillation)
    whole = trained(model, data, training=training)
    kept = replace(training, checkpoints=tmp_path)
    with interrupted(monkeypatch, after):
        trained(model, data, training=kept)
    again = trained(model, data, training=replace(kept, resume=True))
    assert_same(again.model, whole.model)
    assert again.report.training == whole.report.training
    # All is there already: nothing is trained once more.
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", None)
        assert_same(trained(model, data, training=replace(kept, resume=True)).model, whole.model)


def test_checkpoints_of_other_choices_are_refused(samples: Samples, tmp_path: Path) -> None:
    model = tiny_float("bert")
    kept = replace(SHORT, checkpoints=tmp_path)
    trained(model, samples, training=kept)
    with pytest.raises(CheckpointError, match="resume"):
        trained(model, samples, training=kept)
    with pytest.raises(CheckpointError, match=r"gate_rate was 0\.5 and is 0\.4;"):
        trained(model, samples, training=replace(kept, resume=True, gate_rate=0.4))


def test_the_best_checkpoint_that_is_small_enough_is_taken(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are dictated. Those of gates that are too open are not even asked for."""
    asked: list[int] = []

    def dictated(model: Any, *_: Any, **__: Any) -> float:
        asked.append(sum(p.numel() for p in model.parameters()))
        return float(len(asked) == 3)

    monkeypatch.setattr("fastprune.evaluation.scorer.evaluate", dictated)
    sparse = {2: 0.1, 4: 0.2, 6: 0.595}
    training = replace(SHORT, training=replace(STEPS, save_every=2), finetuning=None)
    states = []
    load = torch.nn.Module.load_state_dict

    def loading(self: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        states.append(int(state["lagrangian._extra_state"]))
        return load(self, state, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", loading)
    with counting(monkeypatch) as steps:
        monkeypatch.setattr(Gates, "sparsity", lambda self: sparse.get(len(steps), 0.6))
        trained(tiny_float("bert"), samples, eval_data=samples, training=training)
    # Dense, then the third to the sixth checkpoint (of steps 6 to 12), then what came out.
    assert len(asked) == 6
    assert states == [8]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_fine_tuning_that_makes_nothing_better_is_undone(
    metric: str, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are dictated: worse with every one that is asked for."""
    asked = iter(range(100))

    def dictated(*_: Any, **__: Any) -> float:
        return next(asked) * (1 if metric == "loss" else -1)

    monkeypatch.setattr("fastprune.evaluation.scorer.evaluate", dictated)
    training = replace(SHORT, training=replace(STEPS, save_every=12), tolerance=1)
    options = {"eval_data": samples, "metric": metric, "training": training}
    ours = trained(tiny_float("bert"), samples, **options)
    options["training"] = replace(training, finetuning=None)
    assert_same(ours.model, trained(tiny_float("bert"), samples, **options).model)


def test_falling_short_is_said(samples: Samples) -> None:
    slow = replace(SHORT, gate_rate=1e-4)
    result = trained(tiny_float("bert"), samples, "params=0.3", training=slow)
    assert result.report.params.kept <= 0.3
    (warning,) = result.report.warnings
    assert "expect" in warning
    assert "train longer" in warning


def test_figures_tell_how_far_gates_have_come(samples: Samples) -> None:
    model = tiny_float("bert")
    layout = layout_of(model)
    student = Student(model, layout.sites, gates=Gates(layout), lagrangian=Lagrangian(0.8, ramp=4))
    figures = student.figures()
    assert figures == {
        "sparsity": student.gates.sparsity(),
        "target": pytest.approx(0.2),
        "l1": 0,
        "l2": 0,
    }
    assert Student(model, layout.sites).figures() == {}


def test_its_course_is_told(samples: Samples) -> None:
    training = replace(SHORT, training=replace(STEPS, save_every=6))
    result = trained(tiny_float("bert"), samples, eval_data=samples, training=training)
    history = result.report.training["history"]
    gates, after = history["gates"], history["finetuning"]
    assert [entry["step"] for entry in gates] == list(range(1, 13))
    # 0.3 of the steps are a ramp of four; the target is that of the next step.
    expected = [0.6 * min(1, (step + 1) / 4) for step in range(1, 13)]
    assert [entry["target"] for entry in gates] == pytest.approx(expected)
    assert gates[-1]["sparsity"] == result.report.training["sparsity"]["expected"]
    assert all(entry["l1"] < 0 < entry["loss"] for entry in gates)
    assert [entry["step"] for entry in after] == [1, 2, 3, 4]
    # What is far from its target has no score.
    assert not any("score" in entry for entry in gates)
    assert [entry["step"] for entry in after if 0 <= entry.get("score", -1) <= 1] == [4]


def test_the_teacher_teaches_twice_and_never_drops_out(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = []
    forward = Distillation.forward

    def seen(self: Any, outputs: Any, hidden: Any, alive: Any, batch: Any, lesson: Any) -> Any:
        assert torch.is_grad_enabled()
        lessons.append(lesson.prediction[0])
        return forward(self, outputs, hidden, alive, batch, lesson)

    monkeypatch.setattr(Distillation, "forward", seen)
    model = tiny("bert", hidden_dropout_prob=0.5).float()
    quiet = trained(model.eval(), samples)
    assert len(lessons) == 12 + 4
    assert_same(trained(model.train(), samples).model, quiet.model)
    for first, second in zip(lessons[:16], lessons[16:], strict=True):
        assert torch.equal(first, second)
    assert model.training


def test_closed_layers_are_not_taught(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_float("bert")
    gates = Gates(layout_of(model))
    values, sparsity = gates.draw()
    for site in gates.layout.sites:
        if site.layer == 1:
            values.sublayers[site.name] = torch.zeros(())
    monkeypatch.setattr(gates, "draw", lambda: (values, sparsity))
    taught = []

    def seen(outputs: Any, hidden: Any, alive: Any, batch: Any, lesson: Any) -> torch.Tensor:
        taught.append(alive)
        return outputs.logits.sum()

    distillation = Distillation(model, "classification", GateTraining())
    monkeypatch.setattr(distillation, "forward", seen)
    student = Student(
        model,
        gates.layout.sites,
        distillation=distillation,
        gates=gates,
        lagrangian=Lagrangian(0.5, 4),
    )
    student(**next(samples.batches(4)))
    assert taught == [[0, 2]]


def test_seeds_repeat_and_differ(samples: Samples) -> None:
    first, again, other = (trained(tiny_float("bert"), samples, seed=s) for s in (0, 0, 1))
    assert_same(again.model, first.model)
    assert not all(
        torch.equal(a, b) if a.shape == b.shape else False
        for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True)
    )


def test_gates_start_at_ranks_of_the_fisher_information(samples: Samples) -> None:
    model = tiny_float("bert")
    layout = layout_of(model)
    start = fisher_start(model, layout, samples, STEPS)
    units = sum(layout.sizes)
    assert sorted(start[:units].tolist()) == pytest.approx(
        [LARGEST * i / (units - 1) for i in range(units)]
    )
    assert torch.equal(start[units:], torch.full_like(start[units:], LARGEST))
    statistics = fastprune.collect_statistics(model, samples)
    worth = statistics.importance()[4 : 4 + 37]  # filters of layer 0
    assert torch.equal(worth.argsort(), start[4 : 4 + 37].argsort())
    # Of heads and filters together, by what each costs: a head has four matrices of 8 x 32, and
    # biases but for the output's, a filter a row, a bias and a column.
    costs = torch.tensor([4 * 8 * 32 + 3 * 8] * 4 + [2 * 32 + 1] * 37)
    assert torch.equal(
        (statistics.importance() / costs.repeat(3)).argsort(), start[:units].argsort()
    )
    result = trained(model, samples, training=replace(SHORT, start="fisher"))
    assert result.report.training["start"] == "fisher"


def test_half_precision_passes(samples: Samples) -> None:
    result = trained(tiny_float("bert"), samples, dtype="bfloat16")
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    halves = trained(tiny("bert").bfloat16(), samples)
    assert {p.dtype for p in halves.model.parameters()} == {torch.bfloat16}


def test_accumulated_batches_make_one_step(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(SHORT, training=replace(STEPS, batch_size=2, accumulate=2), finetuning=None)
    batches = []
    forward = Student.forward

    def seen(self: Any, **batch: Any) -> Any:
        batches.append(len(batch["input_ids"]))
        return forward(self, **batch)

    monkeypatch.setattr(Student, "forward", seen)
    with counting(monkeypatch) as steps:
        trained(tiny_float("bert"), samples, training=training)
    assert batches == [2] * 24
    assert len(steps) == 12


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


def test_modes_and_flags_come_back(samples: Samples) -> None:
    model = tiny_float("bert").train()
    model.bert.encoder.layer[1].output.dense.weight.requires_grad_(False)
    result = trained(model, samples, training=replace(SHORT, gates=("heads", "filters")))
    assert model.training
    assert result.model.training
    frozen = [n for n, p in result.model.named_parameters() if not p.requires_grad]
    assert frozen == ["bert.encoder.layer.1.output.dense.weight"]
    expected = model.bert.encoder.layer[1].output.dense.weight
    kept = result.masks["bert.encoder.layer.1.output.dense"].bool()
    z = result.model.bert.encoder.layer[1].output.dense.weight / expected[:, kept]
    torch.testing.assert_close(z, z[:1].expand_as(z), rtol=1e-5, atol=0)  # gates alone


def test_what_went_is_told(samples: Samples) -> None:
    model = tiny_float("bert")
    result = trained(model, samples)
    shape = fastprune.compact(model, result.masks, hidden=result.hidden)
    assert layer_units(shape) == layer_units(result.model)
    assert stream_width(shape) == stream_width(result.model) == int(result.hidden.sum())


def test_a_result_can_be_trained_on(samples: Samples) -> None:
    first = trained(tiny_float("bert"), samples, "params=0.6")
    second = trained(first.model, samples, "params=0.5")
    assert second.report.params.kept <= 0.5
    assert stream_width(second.model) <= stream_width(first.model) < 32


def test_losses_with_weights_are_not_trained(samples: Samples) -> None:
    class Weighed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, outputs: Any, batch: Any) -> torch.Tensor:
            return (outputs.logits * self.weight).square().mean()

    loss = Weighed()
    trained(tiny_float("bert"), samples, training=replace(SHORT, distillation="none", loss=loss))
    assert torch.equal(loss.weight, torch.ones(2))


def smoothed(share: float) -> Any:
    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(outputs.logits, batch["labels"], label_smoothing=share)

    return loss


class Scaled:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, outputs: Any, batch: Any) -> torch.Tensor:
        return outputs.loss * self.factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda o, b: o.logits.square().mean(), lambda o, b: o.logits.abs().mean()),
        (lambda o, b: o.loss * 0.5, lambda o, b: o.loss * 0.25),
        (smoothed(0.1), smoothed(0.5)),
        (Scaled(1), Scaled(2)),
        (partial(Scaled.__call__, Scaled(1)), partial(Scaled.__call__, Scaled(2))),
    ],
    ids=["names", "constants", "closures", "objects", "partial"],
)
def test_another_loss_is_another_training(one: Any, other: Any) -> None:
    first, second = (GateTraining(distillation="none", loss=loss) for loss in (one, other))
    assert first.chosen() == first.chosen() != second.chosen()


def test_a_loss_that_counts_is_the_same_when_it_goes_on(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted() -> Any:
        seen: list[int] = []

        def loss(outputs: Any, batch: Any) -> torch.Tensor:
            seen.append(1)
            return outputs.loss

        return loss

    training = replace(SHORT, distillation="none", checkpoints=tmp_path)
    with interrupted(monkeypatch, 14):
        trained(tiny_float("bert"), samples, training=replace(training, loss=counted()))
    with counting(monkeypatch) as steps:
        again = replace(training, loss=counted(), resume=True)
        trained(tiny_float("bert"), samples, training=again)
    assert len(steps) == 4


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


def test_checkpoints_without_their_best_one_are_passed_over(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one may be what comes out, so it has to be whole, too."""
    scores = {"value": 0.0}

    def dictated(*_: Any, **__: Any) -> float:
        scores["value"] += 1
        return float(scores["value"] == 2)  # the first after the dense model's

    monkeypatch.setattr("fastprune.evaluation.scorer.evaluate", dictated)
    steps = replace(STEPS, save_every=1, epochs=1)
    training = GateTraining(
        training=steps, finetuning=None, ramp=0, tolerance=1, checkpoints=tmp_path
    )
    with interrupted(monkeypatch, 3):
        trained(tiny_float("bert"), samples, training=training, eval_data=samples)
    folder = tmp_path / "params-0.4" / "gates"
    assert {p.name for p in folder.glob("c*")} == {"checkpoint-1", "checkpoint-3"}
    weights = folder / "checkpoint-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="damaged"), counting(monkeypatch) as taken:
        trained(
            tiny_float("bert"),
            samples,
            training=replace(training, resume=True),
            eval_data=samples,
        )
    assert len(taken) == 4


def test_two_trainings_do_not_share_a_directory(samples: Samples, tmp_path: Path) -> None:
    training = replace(SHORT, checkpoints=tmp_path)
    (tmp_path / "params-0.4" / "gates").mkdir(parents=True)
    with (
        locked(tmp_path / "params-0.4" / "gates", "somebody"),
        pytest.raises(CheckpointError, match="another training is at work"),
    ):
        trained(tiny_float("bert"), samples, training=training)


def test_what_diverges_says_so_and_leaves_nothing(samples: Samples, tmp_path: Path) -> None:
    steps = replace(STEPS, learning_rate=1e30, epochs=9)
    training = replace(SHORT, training=steps, checkpoints=tmp_path)
    with pytest.raises(NumericalError, match="does not stay finite"):
        trained(tiny_float("bert"), samples, training=training, eval_data=samples)
    assert not list(tmp_path.glob("**/checkpoint-*"))


def test_gates_that_are_not_finite_are_not_settled() -> None:
    gates = Gates(layout_of(tiny_float("bert")))
    with torch.no_grad():
        gates.alpha[3] = float("nan")
    with pytest.raises(NumericalError, match="finite"):
        gates.settled()


def test_a_full_disk_is_named(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(CheckpointError, match="where checkpoints are kept go on with --resume"):
        trained(tiny_float("bert"), samples, training=replace(SHORT, checkpoints=tmp_path))


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
    ("loss", "says"),
    [
        (lambda out, batch: out.logits.mean(1), "shape \\[4\\]"),
        (lambda out, batch: None, "returns NoneType"),
        (lambda out, batch: 0.3, "returns float"),
        (lambda out, batch: out.logits.mean().detach(), "no gradient"),
        (lambda out, batch: out.logits.argmax(), "int64"),
    ],
)
def test_losses_that_cannot_be_trained_on(loss: Any, says: str, samples: Samples) -> None:
    with pytest.raises(FastpruneError, match=says):
        trained(
            tiny_float("bert"), samples, training=replace(SHORT, distillation="none", loss=loss)
        )


def test_other_scores_and_data_are_other_trainings(samples: Samples, tmp_path: Path) -> None:
    model, kept = tiny_float("bert"), replace(SHORT, checkpoints=tmp_path)
    trained(model, samples, training=kept, eval_data=samples)
    again = replace(kept, resume=True)
    for says, options in {
        "metric was accuracy and is loss;": {"eval_data": samples, "metric": "loss"},
        "another held-out samples": {"eval_data": samples.select(range(8))},
        "seq_len was 7.75 and is 7;": {"eval_data": samples, "seq_len": 7},
    }.items():
        with pytest.raises(CheckpointError, match=re.escape(says)):
            trained(model, samples, training=again, **options)


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


COMMAND = ["--epochs", "2", "--finetune-epochs", "1", "--batch-size", "2", "--gate-rate", "0.5"]


@pytest.fixture
def on_disk(tmp_path: Path, tokenizer: Any) -> list[str]:
    model = tiny_float("bert")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [f"the {'cat' if i % 2 else 'dog'} sat on the mat\t{i % 2}" for i in range(8)]
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    train = str(tmp_path / "train.tsv")
    return [str(tmp_path / "model"), "--train", train, "--eval", train]


def test_the_command(on_disk: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "small")
    arguments = ["cofi", *on_disk, "--out", out, "--budget", "params=0.4", *COMMAND]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "small" / "fastprune_report.json").read_text())
    assert report["method"] == "cofi"
    assert report["params"]["kept"] <= 0.4
    assert report["training"]["training"]["epochs"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "small", "train.tsv"]
    fastprune.load_pretrained(out)


def test_an_interrupted_command_is_resumed(
    on_disk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    arguments = ["cofi", *on_disk, "--out", str(out), "--save-every", "1", *COMMAND]
    with stopping(monkeypatch, 5):
        stopped = CliRunner().invoke(main, arguments)
    assert stopped.exit_code == 130
    assert not out.exists()
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "--resume" in refused.output
    with counting(monkeypatch) as steps:
        done = CliRunner().invoke(main, [*arguments, "--resume"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(steps) == 12 - 5  # of 2 epochs under gates and 1 afterwards, 4 steps each
    assert not (tmp_path / "small.checkpoints").exists()
    whole = [*arguments[:6], "--out", str(tmp_path / "whole"), *arguments[8:]]
    assert CliRunner().invoke(main, whole).exit_code == 0
    assert_same(*map(fastprune.load_pretrained, (out, tmp_path / "whole")))


def test_budgets_that_are_finished_are_not_trained_again(
    on_disk: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    two = ["--budget", "params=0.5", "--budget", "params=0.3", "--save-every", "1"]
    arguments = ["cofi", *on_disk, "--out", str(out), *two, *COMMAND]
    with stopping(monkeypatch, 14):
        assert CliRunner().invoke(main, arguments).exit_code == 130
    assert [path.name for path in out.iterdir()] == ["params-0.5"]
    first = fastprune.load_pretrained(out / "params-0.5")
    with counting(monkeypatch) as steps:
        done = CliRunner().invoke(main, [*arguments, "--resume"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(steps) == 24 - 14
    assert_same(fastprune.load_pretrained(out / "params-0.5"), first)
    assert (out / "params-0.3").is_dir()


def test_only_its_own_checkpoints_are_removed(on_disk: list[str], tmp_path: Path) -> None:
    beside = tmp_path / "small.checkpoints"
    beside.mkdir()
    train = beside / "train.tsv"
    train.write_text((tmp_path / "train.tsv").read_text())
    arguments = ["cofi", on_disk[0], "--train", str(train), "--budget", "params=0.5", *COMMAND]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "small")])
    assert done.exit_code == 0, done.output
    assert [path.name for path in beside.iterdir()] == ["train.tsv"]


@pytest.mark.parametrize("out", [".", "/"])
def test_places_that_are_no_target(out: str, on_disk: list[str], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(main, ["cofi", *on_disk, "--out", out])
    assert done.exit_code == 1
    assert done.output.startswith("fastprune: error: ")


@pytest.mark.parametrize("option", [["--gates", "heads,tails"], ["--epochs", "0"], ["--ramp", "2"]])
def test_bad_options_end_in_one_line(on_disk: list[str], tmp_path: Path, option: list[str]) -> None:
    arguments = ["cofi", *on_disk, "--out", str(tmp_path / "small"), *option]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert done.output.startswith("fastprune: error: ")
    assert not (tmp_path / "small").exists()
    assert not (tmp_path / "small.checkpoints").exists()


def test_few_steps_are_said_beforehand(samples: Samples) -> None:
    with pytest.warns(RuntimeWarning, match="12 steps under gates are few: .* about 60 to settle"):
        trained(tiny_float("bert"), samples)


def test_the_callers_surroundings_stay(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random states, switched gradients, and what accelerate reads from the environment."""
    plain = trained(tiny_float("bert"), samples)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    model = tiny_float("bert")
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    with torch.no_grad():
        assert_same(trained(model, samples).model, plain.model)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]  # noqa: NPY002
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    with torch.inference_mode():
        model = tiny_float("bert")
        assert_same(trained(model, samples).model, plain.model)


def test_checkpoints_can_be_moved(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of them is then found where it is now."""
    every = replace(STEPS, save_every=2)
    training = GateTraining(
        training=every, finetuning=replace(every, epochs=1), gate_rate=0.5, ramp=0, tolerance=1
    )
    options = {"eval_data": samples, "metric": "loss"}
    whole = trained(tiny_float("bert"), samples, training=training, **options)
    with interrupted(monkeypatch, 14):
        kept = replace(training, checkpoints=tmp_path / "here")
        trained(tiny_float("bert"), samples, training=kept, **options)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = replace(training, checkpoints=tmp_path / "there", resume=True)
    again = trained(tiny_float("bert"), samples, training=moved, **options)
    assert_same(again.model, whole.model)
    assert again.report.score == whole.report.score


def test_what_is_off_its_target_never_beats_what_is_not() -> None:
    goal = Goal(text_samples("regression"), None, "loss", None, False, 8.0)
    assert goal.better(1e30, goal.short_by(0.1))
    assert goal.better(goal.short_by(0.1), goal.short_by(0.2))


def test_nothing_left_to_train_is_left_as_it_is(samples: Samples) -> None:
    """Of the only layer that may change, nothing is left after training under gates."""
    model = tiny_float("bert").requires_grad_(False)
    model.bert.embeddings.word_embeddings.requires_grad_(True)
    with pytest.raises(FastpruneError, match="all weights but embeddings"):
        trained(model, samples)
    model.bert.encoder.layer[0].attention.self.query.weight.requires_grad_(True)
    for distillation in ("prediction", "none"):
        training = replace(SHORT, distillation=distillation)
        result = trained(model, samples, "params=0.001", training=training)
        assert result.report.params.kept <= 0.001


def test_layers_that_are_skipped_teach_nothing() -> None:
    model = tiny("opt", layerdrop=0.5).float()
    trained(model, samples_for("opt", count=16))


def test_other_types_by_default(samples: Samples) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        result = trained(tiny_float("bert"), samples)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_a_single_hidden_dimension_stays(samples: Samples) -> None:
    narrow = fastprune.compact(tiny_float("bert"), {}, hidden=torch.arange(32) == 3)
    assert stream_width(trained(narrow, samples).model) == 1


def test_losses_that_are_not_finite_end_it(samples: Samples) -> None:
    training = replace(
        SHORT, distillation="none", loss=lambda out, batch: out.logits.mean() * 0 + float("inf")
    )
    with pytest.raises(NumericalError, match="a loss of your own"):
        trained(tiny_float("bert"), samples, training=training)


@pytest.mark.parametrize(
    ("labels", "says"),
    [(torch.rand(16), "whole numbers"), (torch.full((16,), float("nan")), "not finite")],
)
def test_labels_of_other_types(labels: torch.Tensor, says: str, samples: Samples) -> None:
    data = replace(samples, labels=labels)
    with pytest.raises(DataError, match=says):
        trained(tiny_float("bert"), data)


def test_an_empty_model_is_told_of(samples: Samples) -> None:
    result = trained(tiny_float("bert"), samples, "params=1e-9")
    assert any("no layer has anything left" in warning for warning in result.report.warnings)
    assert sum(p.numel() for p in result.model.parameters()) > 0


def test_models_that_put_out_tuples_are_refused(samples: Samples) -> None:
    model = tiny_float("bert")
    model.config.return_dict = False
    with pytest.raises(FastpruneError, match="return_dict = True"):
        trained(model, samples)
