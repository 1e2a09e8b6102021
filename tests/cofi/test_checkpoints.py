"""Interrupted trainings go on as if nothing had happened, and only those that are the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gated_models import tiny_float
from interruptions import counting, interrupted
from small_trainings import SHORT, STEPS, assert_same, trained
from tiny_samples import samples_for

from fastprune import GateTraining
from fastprune.atomic import locked
from fastprune.data import Samples
from fastprune.errors import CheckpointError, NumericalError


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


def test_a_full_disk_is_named(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(CheckpointError, match="where checkpoints are kept go on with --resume"):
        trained(tiny_float("bert"), samples, training=replace(SHORT, checkpoints=tmp_path))
