"""Latency on the command line: measuring tables, and pruning with them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from latency_tables import KnownClock, known_table
from tiny_models import tiny

import fastprune
from fastprune import LatencyTable
from fastprune.cli import main


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tokenizer):
    """A small classifier whose sublayers take longer than a clock ticks, data, and its table."""
    root = tmp_path_factory.mktemp("lut")
    model = tiny("bert", hidden_size=64, intermediate_size=256).float()
    fastprune.save_pretrained(model, root / "model", tokenizer)
    words = ["good", "bad", "the cat sat", "a dog ran", "very good film", "the house was bad"]
    rows = [f"{words[i % 6]} {words[(i * 5 + 1) % 6]}\t{i % 2}" for i in range(40)]
    (root / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    known_table(model).save(root / "table.json")
    return root


@pytest.fixture
def known_clock(monkeypatch):
    """Passes of a small model are too short to be told apart on a busy machine."""
    monkeypatch.setattr("fastprune.evaluation.latency_table.PassTimer", KnownClock)


def run(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def prune(root, out, *extra):
    train = root / "train.tsv"
    return run("prune", root / "model", "--train", train, "--samples", 16, "--out", out, *extra)


def test_lut_writes_a_table_that_prune_reads(known_clock, workspace, tmp_path):
    table = tmp_path / "table.json"
    result = run(
        "lut", workspace / "model", "--batch", 8, "--length", 16, "--rounds", 3, "--out", table
    )
    assert result.exit_code == 0, result.output
    assert "8 x 16 tokens, float32" in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == [table]
    loaded = LatencyTable.load(table)
    assert (loaded.workload.batch, loaded.workload.length) == (8, 16)
    loaded.check_fit(fastprune.load_pretrained(workspace / "model"))
    pruned = prune(
        workspace, tmp_path / "out", "--budget", "latency=0.7", "--latency-table", table, "--json"
    )
    assert pruned.exit_code == 0, pruned.output
    report = json.loads(pruned.stdout)
    assert report["budget"] == "latency=0.7"
    assert (report["latency_ms"]["batch"], report["latency_ms"]["length"]) == (8, 16)
    estimated = report["latency_ms"]["estimated"]
    assert estimated["pruned"] <= 0.7 * estimated["dense"] * (1 + 1e-9)
    assert report["latency_table"]["place"]["device"] == loaded.place.device
    assert all(n % 8 == 0 for n in report["units"]["filters"])


def test_json_and_quiet(known_clock, workspace, tmp_path):
    common = ("lut", workspace / "model", "--batch", 8, "--length", 16, "--rounds", 1)
    result = run(*common, "--out", tmp_path / "a.json", "--json")
    assert json.loads(result.stdout) == LatencyTable.load(tmp_path / "a.json").to_dict()
    assert run(*common, "--out", tmp_path / "b.json", "--quiet").stdout == ""


def test_the_estimate_stands_beside_the_measurement(workspace, tmp_path):
    result = prune(
        workspace, tmp_path / "out", "--budget", "latency=0.6", "--budget", "macs=0.5",
        "--latency-table", workspace / "table.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["latency-0.6", "macs-0.5"]
    assert result.output.count("as the table estimates") == 2
    assert "off" in result.output


def test_a_table_from_elsewhere_is_a_warning_that_names_both(workspace, tmp_path):
    table = LatencyTable.load(workspace / "table.json")
    elsewhere = replace(table, place=replace(table.place, device="Abacus 3000"))
    elsewhere.save(tmp_path / "table.json")
    result = prune(
        workspace, tmp_path / "out", "--budget", "latency=0.6", "--latency-table",
        tmp_path / "table.json", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = [w for w in json.loads(result.stdout)["warnings"] if "elsewhere" in w]
    assert len(found) == 1
    assert f"Abacus 3000, here {table.place.device}" in found[0]
    assert f"fastprune: warning: {found[0]}" in result.stderr


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["--budget", "latency=0.01"], "smallest for this model is latency="),
        (["--budget", "latency=500ms"], "keeps everything"),
        (["--budget", "latency=0.5", "--latency-table", "{root}/missing.json"], "missing.json"),
        (["--budget", "latency=0.5", "--latency-table", "{root}/train.tsv"], "no JSON"),
        (["--budget", "latency=0.5", "--method", "kprune"], "method kprune does not go with"),
        (["--budget", "latency=0.5", "--preset", "kwon2022"], "preset kwon2022 does not go with"),
        (["--align", "0"], "align"),
    ],
    ids=str,
)
def test_misuse_of_latency_is_one_line_and_leaves_nothing(workspace, tmp_path, changes, reason):
    changes = [change.format(root=workspace) for change in changes]
    if "--latency-table" not in changes:
        changes += ["--latency-table", str(workspace / "table.json")]
    result = prune(workspace, tmp_path / "out", *changes)
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("fastprune: error: ")
    assert reason in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["--batch", "0"], "batch"),
        (["--length", "65"], "the model takes 64"),
        (["--rounds", "0"], "rounds"),
        (["--dtype", "int4"], "int4"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--out", "{root}"], "is a directory"),
        (["--out", "{root}/table.json"], "--overwrite"),
        (["--out", "{root}/missing/table.json"], "choose another file"),
    ],
    ids=str,
)
def test_misuse_of_lut_is_one_line_and_leaves_nothing(workspace, tmp_path, changes, reason):
    changes = [change.format(root=workspace) for change in changes]
    result = run("lut", workspace / "model", "--out", tmp_path / "table.json", *changes)
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("fastprune: error: ")
    assert reason in line
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_no_table(workspace, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastprune.evaluation.latency.PassTimer.round", interrupt)
    out = tmp_path / "table.json"
    result = run("lut", workspace / "model", "--length", 16, "--out", out)
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())
