"""``fastprune cofi`` from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from gated_models import tiny_float
from interruptions import counting, stopping
from small_trainings import assert_same

import fastprune
from fastprune.cli import main

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
