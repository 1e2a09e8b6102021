"""Several processes train one student: each on its own batches, all to the same gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gated_models import tiny_float
from ranks import run_ranks
from tiny_samples import text_samples

from fastprune import GateTraining, Training, data_parallel, prune

STEPS = Training(epochs=4, batch_size=4, learning_rate=1e-3, group_by_length=True)
TRAINING = GateTraining(training=STEPS, finetuning=replace(STEPS, epochs=1), gate_rate=0.5)
SAMPLES = 32


def train(checkpoints: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[int]]:
    seen = []
    step = torch.optim.AdamW.step

    def counted(self: Any, closure: Any = None) -> Any:
        seen.append(1)
        return step(self, closure)

    samples = text_samples("classification", SAMPLES)
    torch.optim.AdamW.step = counted  # type: ignore[method-assign]
    with data_parallel():
        result = prune(
            tiny_float("bert"),
            samples,
            "params=0.4",
            method="cofi",
            eval_data=samples,
            training=replace(TRAINING, checkpoints=checkpoints),
            latency=False,
        )
    return result.report.to_dict(), result.model.state_dict(), seen


def test_processes_train_together(tmp_path: Path) -> None:
    first, second = run_ranks(2, tmp_path, train, tmp_path / "checkpoints")
    for name, value in first[1].items():
        assert torch.equal(value, second[1][name]), name
    assert first[0] == second[0]
    assert first[0]["params"]["kept"] <= 0.4
    # Half as many steps as one process would take: 4 epochs under gates, then 1.
    assert len(first[2]) == len(second[2]) == (4 + 1) * SAMPLES // (4 * 2)
    assert {path.name for path in (tmp_path / "checkpoints" / "params-0.4").iterdir()} == {
        "gates",
        "finetuning",
    }
