"""The command line under torchrun: written once, said once, and over for all when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_models import tiny

import fastprune
from fastprune.cli import main

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("torchrun")
    fastprune.save_pretrained(tiny("bert").float(), root / "model", tokenizer)
    words = ["good", "bad", "the cat sat", "a dog ran", "very good film", "the house was bad"]
    rows = [f"{words[i % 6]} {words[(i * 5 + 1) % 6]}\t{i % 2}" for i in range(41)]
    (root / "data.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    return root


def under_torchrun(*arguments):
    here = os.path.dirname(os.path.dirname(fastprune.__file__))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    command = [*LAUNCH, "-m", "fastprune", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )


def test_two_processes_prune_as_one_does(workspace, tmp_path):
    arguments = [
        "prune", workspace / "model", "--train", workspace / "data.tsv",
        "--eval", workspace / "data.tsv", "--budget", "macs=0.6", "--json",
    ]  # fmt: skip
    shared = under_torchrun(*arguments, "--out", tmp_path / "shared")
    assert shared.returncode == 0, shared.stderr
    ours = json.loads(shared.stdout)  # said once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared"]
    alone = CliRunner().invoke(main, [str(a) for a in (*arguments, "--out", tmp_path / "alone")])
    theirs = json.loads(alone.output)
    assert (ours["processes"], theirs["processes"]) == (2, 1)
    for name in ("sample_ids", "units", "macs", "seq_len", "dense", "pruned"):
        assert ours[name] == theirs[name], name
    found = load_file(tmp_path / "shared" / "model.safetensors")
    for name, weight in load_file(tmp_path / "alone" / "model.safetensors").items():
        # Rounding, amplified by the solves: see test_data_parallel.py.
        assert (weight - found[name]).abs().max() <= 2e-2 * weight.abs().max(), name


def test_an_error_is_said_once_and_ends_all(workspace, tmp_path):
    arguments = ["prune", workspace / "model", "--train", tmp_path / "missing.tsv"]
    failed = under_torchrun(*arguments, "--out", tmp_path / "out")
    assert failed.returncode != 0
    assert failed.stderr.count("fastprune: error:") == 1
    assert "missing.tsv" in failed.stderr
    assert failed.stdout == ""
    assert not (tmp_path / "out").exists()
