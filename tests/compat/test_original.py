"""The authors' own main.py, where a checkout of it is at hand."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
import torch

from fastprune.compat.retraining_free.launcher import run_script


@pytest.fixture
def original() -> Path:
    checkout = os.environ.get("FASTPRUNE_RETRAINING_FREE")
    if not checkout:
        pytest.skip(
            "FASTPRUNE_RETRAINING_FREE names no checkout of WoosukKwon/retraining-free-pruning"
        )
    return Path(checkout) / "main.py"


@pytest.mark.slow
def test_main_runs_unmodified(original, sst2, tmp_path, caplog):
    arguments = {
        "--model_name": sst2["model"],
        "--ckpt_dir": sst2["model"],
        "--task_name": "sst2",
        "--constraint": "0.5",
        "--num_samples": "256",
        "--output_dir": str(tmp_path),
    }
    flat = [part for pair in arguments.items() for part in pair]
    # Its own set-up of the root logger has no effect under pytest.
    with caplog.at_level(logging.INFO):
        run_script(original, flat, data=Path(sst2["train"]).parent)
    share = float(re.search(r"Pruned Model MAC: ([\d.]+) %", caplog.text)[1])
    assert 49.9 < share <= 50.0
    accuracy = float(re.search(r"Test accuracy: ([\d.]+)", caplog.text)[1])
    assert accuracy > 0.8
    heads, filters = (torch.load(tmp_path / f"{kind}_mask.pt") for kind in ("head", "neuron"))
    assert heads.shape == (6, 12)
    assert filters.shape == (6, 1536)
