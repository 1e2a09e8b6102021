"""Losses of the user's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gated_models import tiny_float
from interruptions import counting, interrupted
from small_trainings import SHORT, trained
from torch.nn import functional

from fastprune import GateTraining
from fastprune.data import Samples
from fastprune.errors import FastpruneError, NumericalError


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


def test_losses_that_are_not_finite_end_it(samples: Samples) -> None:
    training = replace(
        SHORT, distillation="none", loss=lambda out, batch: out.logits.mean() * 0 + float("inf")
    )
    with pytest.raises(NumericalError, match="a loss of your own"):
        trained(tiny_float("bert"), samples, training=training)
