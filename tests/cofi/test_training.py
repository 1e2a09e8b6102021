"""Training under gates from end to end: what comes out of it, and what stays as it was."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gated_models import layout as layout_of
from gated_models import tiny_float
from interruptions import counting
from small_trainings import SHORT, STEPS, assert_same, logits, trained
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import GateTraining, Training
from fastprune.cofi.distillation import Distillation
from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.goal import Goal
from fastprune.cofi.lagrangian import Lagrangian
from fastprune.cofi.start import fisher_start
from fastprune.cofi.student import Student
from fastprune.data import Samples
from fastprune.errors import FastpruneError
from fastprune.structure import layer_units
from fastprune.structure.stream import stream_width
from fastprune.training.loop import batch_inputs

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


def test_an_empty_model_is_told_of(samples: Samples) -> None:
    result = trained(tiny_float("bert"), samples, "params=1e-9")
    assert any("no layer has anything left" in warning for warning in result.report.warnings)
    assert sum(p.numel() for p in result.model.parameters()) > 0
