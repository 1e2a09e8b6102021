"""The divergence of predictions: zero from itself, and with a curvature that is known there."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fastprune.calibration.divergence import Divergence
from fastprune.errors import DataError

TASKS = ("classification", "image", "regression", "question-answering", "causal-lm", "embedding")


def outputs_of(task, values):
    """Model outputs that hold ``values`` [samples, tokens, width] in the way of a task."""
    if task == "embedding":
        return SimpleNamespace(last_hidden_state=values)
    if task == "question-answering":
        return SimpleNamespace(start_logits=values[..., 0], end_logits=values[..., 1])
    return SimpleNamespace(logits=values if task == "causal-lm" else values[:, 0])


def some(task, *, seed=0):
    """Outputs for three samples of four tokens, the last of the first one being padding."""
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    batch = {"attention_mask": torch.ones(3, 4, dtype=torch.int64)}
    batch["attention_mask"][0, 3] = 0
    return values, batch


def between(task, ours, theirs, batch):
    divergence = Divergence(task, 0, temperature=2.0)
    return divergence.between(
        *(divergence.prediction(outputs_of(task, x), batch) for x in (ours, theirs)), batch
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_model_does_not_differ_from_itself(task):
    ours, batch = some(task)
    theirs, _ = some(task, seed=1)
    assert between(task, ours, ours, batch).tolist() == [0.0, 0.0, 0.0]
    assert (between(task, ours, theirs, batch) > 0).all()


@pytest.mark.parametrize("task", ["question-answering", "causal-lm", "embedding"])
def test_padding_makes_no_difference(task):
    ours, batch = some(task)
    theirs, _ = some(task, seed=1)
    expected = between(task, ours, theirs, batch)
    ours[0, 3] = 7.0
    assert torch.equal(between(task, ours, theirs, batch), expected)
    ours[0, 1] = 7.0
    assert between(task, ours, theirs, batch)[0] != expected[0]


def test_distributions_are_softened_and_the_dense_one_is_the_truth():
    ours, theirs = (torch.tensor([[[x, 0.0]]]) for x in (1.0, -2.0))
    p, q = (1 / (1 + math.exp(-x / 2)) for x in (-2.0, 1.0))
    expected = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    found = between("classification", ours, theirs, {})
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_an_unchanged_model_has_the_curvature_of_the_divergence(task):
    """Second moments of its gradients are the Hessian that autograd finds."""
    draws = 3000
    one = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = {"attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    hessian = torch.autograd.functional.hessian(
        lambda values: between(task, values, one.detach(), batch).sum(), one
    ).reshape(9, 9)
    many = one.expand(draws, -1, -1).clone().requires_grad_()
    batches = {"attention_mask": torch.ones(draws, 3, dtype=torch.int64)}
    loss = Divergence(task, 0, temperature=2.0).at_itself(
        outputs_of(task, many), batches, torch.arange(draws)
    )
    (gradients,) = torch.autograd.grad(loss.sum(), many)
    products = torch.einsum("ni,nj->nij", *[gradients.reshape(draws, 9)] * 2)
    # Five standard errors, and rounding to float32.
    bound = 5 * products.std(0) / math.sqrt(draws) + 1e-5
    assert hessian.abs().max() > 0.05
    assert ((products.mean(0) - hessian).abs() <= bound).all()


def test_two_classes_need_no_draw():
    logits = torch.tensor([[[0.3, -1.1]]], dtype=torch.float64, requires_grad=True)
    hessian = torch.autograd.functional.hessian(
        lambda values: between("classification", values, logits.detach(), {}).sum(), logits
    ).reshape(2, 2)
    outputs = outputs_of("classification", logits)
    loss = Divergence("classification", 0, temperature=2.0).at_itself(
        outputs, {}, torch.tensor([0])
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    # Some ten float32 operations on numbers of order one.
    assert (gradient.reshape(2, 1) @ gradient.reshape(1, 2) - hessian).abs().max() < 20 * 2**-23


def test_a_task_that_nothing_is_known_for_is_refused():
    with pytest.raises(DataError, match="translation"):
        Divergence("translation", 0, temperature=2.0)
