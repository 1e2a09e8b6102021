"""A directory with tiny models and data, as a job file names them."""

from __future__ import annotations

import pytest
from tiny_models import tiny

import fastprune


@pytest.fixture(scope="session")
def zoo(tmp_path_factory, tokenizer):
    """Two tiny classifiers, and data to calibrate and score on."""
    root = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(("first", "second")):
        fastprune.save_pretrained(
            tiny("bert", seed=seed).float(), root / "models" / name, tokenizer
        )
    words = ["good", "bad", "the cat sat", "a dog ran", "very good film", "the house was bad"]
    rows = [f"{words[i % 6]} {words[(i * 5 + 1) % 6]}\t{i % 2}" for i in range(40)]
    (root / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    (root / "eval.tsv").write_text("sentence\tlabel\n" + "\n".join(rows[:20]) + "\n")
    return root
