"""What a student is taught: divergences, layers and which of them match."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gated_models import tiny_float
from tiny_samples import samples_for, text_samples
from torch import Tensor
from torch.nn import functional

from fastprune.cofi import GateTraining
from fastprune.cofi.distillation import Distillation, Lesson, captured, valid_tokens
from fastprune.data import Samples
from fastprune.data.samples import model_inputs


def distillation(model: Any, task: str = "classification", **choices: Any) -> Distillation:
    return Distillation(model, task, GateTraining(**choices))


def batch_of(samples: Samples) -> dict[str, Tensor]:
    batch = samples.collate(range(len(samples)))
    del batch["sample_index"]
    return batch


def hidden_of(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(model(**model_inputs(batch), output_hidden_states=True).hidden_states[1:])


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit", "roberta"])
def test_layers_are_those_that_transformers_reports(family: str) -> None:
    model, batch = tiny_float(family), batch_of(samples_for(family))
    valid = valid_tokens(batch)
    with captured(model, range(3), valid) as hidden, torch.no_grad():
        model(**model_inputs(batch))
    for layer, expected in enumerate(hidden_of(model, batch)):
        rows = expected.flatten(0, 1) if valid is None else expected[valid]
        torch.testing.assert_close(hidden[layer], rows)


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 12, 24])
def test_four_layers_at_even_distances_are_taught(depth: int) -> None:
    model = tiny_float("bert")
    found = distillation(model)
    found._depth = depth
    quarters = {12: [2, 5, 8, 11], 24: [5, 11, 17, 23], 6: [1, 2, 4, 5], 3: [0, 1, 2]}
    assert found._taught() == quarters.get(depth, list(range(depth)))


def test_random_layers_differ_from_batch_to_batch() -> None:
    found = distillation(tiny_float("bert"), teacher_layers="random")
    found._depth = 12
    torch.manual_seed(0)
    drawn = [found._taught() for _ in range(20)]
    assert all(len(set(layers)) == 4 and layers == sorted(layers) for layers in drawn)
    assert len(set(map(tuple, drawn))) > 10


def states(*levels: float) -> dict[int, Tensor]:
    return {layer: torch.full((5, 32), level) for layer, level in enumerate(levels)}


@pytest.mark.parametrize(
    ("matching", "alive", "expected"),
    [
        # The nearest of all, closed or not, and one may serve twice.
        ("nearest", (0, 1, 2, 3), [(1, 3), (2, 2), (1, 1), (0, 0)]),
        ("nearest", (0,), [(1, 3), (2, 2), (1, 1), (0, 0)]),
        # From the top down, each below the one before.
        ("ordered", (0, 1, 2, 3), [(1, 3), (0, 2)]),
        # A layer that is closed is passed over.
        ("ordered", (0, 2, 3), [(2, 3), (0, 2)]),
        # The first of them may be all there is.
        ("ordered", (3,), [(3, 3)]),
        ("ordered", (), []),
    ],
)
def test_matching(matching: str, alive: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    found = distillation(tiny_float("bert"), matching=matching)
    ours, theirs = states(0.0, 3.0, 2.0, 9.0), states(0.1, 2.9, 2.1, 3.2)
    assert found._match(ours, alive, theirs) == expected


def test_its_loss_is_the_published_one() -> None:
    """(1 - a) T^2 KL(teacher || student) + a sum of mean squares, over valid tokens only."""
    teacher, student = tiny_float("bert"), tiny_float("bert")
    for parameter in student.parameters():
        parameter.data.mul_(0.9)
    batch = batch_of(text_samples("classification"))
    found = distillation(teacher, matching="nearest", layer_share=0.7, temperature=3.0)
    with torch.no_grad():
        found.projection.weight.add_(0.01)
    inputs = model_inputs(batch)
    lesson = found.teach(inputs, batch)
    with captured(student, range(3), valid_tokens(batch)) as hidden, torch.no_grad():
        outputs = student(**inputs)
        ours = float(found(outputs, hidden, [0, 1, 2], batch, lesson))
        theirs = teacher(**inputs).logits
    kl = functional.kl_div(
        (outputs.logits / 3).log_softmax(-1), (theirs / 3).softmax(-1), reduction="batchmean"
    )
    valid = batch["attention_mask"].bool()
    taught = [x[valid] for x in hidden_of(teacher, batch)]
    learnt = [
        functional.linear(x[valid], found.projection.weight) for x in hidden_of(student, batch)
    ]
    layers = sum(min(((s - t) ** 2).mean().item() for s in learnt) for t in taught)
    assert ours == pytest.approx(0.3 * 9 * float(kl) + 0.7 * layers, rel=1e-5)


def test_padding_teaches_nothing() -> None:
    model, samples = tiny_float("bert"), text_samples("classification")
    found = distillation(model)
    short = samples.select([0])
    alone, padded = batch_of(short), batch_of(samples.select([0, 1]))
    lessons = [found.teach(model_inputs(b), b) for b in (alone, padded)]
    for layer, rows in lessons[0].hidden.items():
        torch.testing.assert_close(lessons[1].hidden[layer][: len(rows)], rows)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "vit"])
def test_a_student_that_is_the_teacher_loses_nothing(family: str) -> None:
    model, batch = tiny_float(family), batch_of(samples_for(family))
    task = samples_for(family).task
    found = distillation(model, task)
    lesson = found.teach(model_inputs(batch), batch)
    with captured(model, range(3), valid_tokens(batch)) as hidden:
        outputs = model(**model_inputs(batch))
    assert float(found(outputs, hidden, [0, 1, 2], batch, lesson)) == pytest.approx(0, abs=1e-5)


def test_temperatures_below_one_are_finite_where_padding_is_left_out() -> None:
    samples = text_samples("question-answering")
    model, batch = tiny_float("roberta"), batch_of(samples)
    found = distillation(model, "question-answering", distillation="prediction", temperature=0.4)
    outputs = model(**model_inputs(batch))
    lesson = Lesson((outputs.start_logits.flip(1), outputs.end_logits), {})
    assert 0 < float(found(outputs, {}, [], batch, lesson).detach()) < float("inf")


def test_regression_is_taught_by_squares() -> None:
    """Over one logit the divergence of distributions would be 0, and teach nothing."""
    samples = text_samples("regression")
    model, batch = tiny_float("bert"), batch_of(samples)
    found = distillation(model, "regression", distillation="prediction")
    outputs = model(**model_inputs(batch))
    lesson = Lesson((outputs.logits + 2,), {})
    assert float(found(outputs, {}, [], batch, lesson)) == pytest.approx(4, rel=1e-5)


def test_it_follows_a_student_that_has_lost_dimensions() -> None:
    found = distillation(tiny_float("bert"))
    with torch.no_grad():
        found.projection.weight.normal_(generator=torch.Generator().manual_seed(0))
    hidden = torch.ones(32)
    hidden[[3, 17]] = 0
    states_ = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) * hidden
    expected = found.projection(states_)
    found.narrow_(hidden)
    torch.testing.assert_close(found.projection(states_[:, hidden != 0]), expected)


def test_the_teacher_is_not_part_of_checkpoints() -> None:
    found = distillation(tiny_float("bert"))
    assert set(found.state_dict()) == {"projection.weight", "projection.bias"}
    assert not distillation(tiny_float("bert"), distillation="prediction").state_dict()
