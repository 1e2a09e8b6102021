"""``fastprune batch`` as people use and misuse it."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from click.testing import CliRunner

import fastprune
from fastprune.cli import main

JOBS = """\
out: out
defaults: {budgets: [macs=0.7, macs=0.5], samples: 16, latency: false, cache: cache}
tasks:
  words: {train: train.tsv, eval: eval.tsv}
models: [models/first]
jobs:
  - {model: models/second, name: unlabelled, train: unlabelled.tsv, targets: labels}
"""


@pytest.fixture
def job_file(zoo, tmp_path):
    for name in ("models", "train.tsv", "eval.tsv"):
        (tmp_path / name).symlink_to(zoo / name)
    (tmp_path / "unlabelled.tsv").write_text("sentence\n" + "good\nbad\n" * 10)
    path = tmp_path / "jobs.yaml"
    path.write_text(JOBS)
    return path


def run(*arguments: object):
    return CliRunner().invoke(main, ["batch", *map(str, arguments)])


@pytest.mark.slow
def test_a_batch_from_file_to_summary(job_file):
    """One job is done, one is refused; mended, only that one runs; changed, it is not replaced."""
    out = job_file.parent / "out"
    result = run(job_file, "--workers", 2)
    assert result.exit_code == 1, result.output
    assert "first-words: done, 2 budgets" in result.stderr
    assert "unlabelled: refused" in result.stderr
    assert "attempt 2" not in result.stderr
    assert "label" in result.stdout
    assert "tries the failed ones again" in " ".join(result.stdout.split())
    rows = json.loads((out / "summary.json").read_text())
    assert [(row["job"], row["budget"], row["state"]) for row in rows] == [
        ("first-words", "macs=0.7", "done"),
        ("first-words", "macs=0.5", "done"),
        ("unlabelled", "macs=0.7", "refused"),
        ("unlabelled", "macs=0.5", "refused"),
    ]
    with (out / "summary.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == [row["state"] for row in rows]
    report = json.loads((out / "first-words" / "macs-0.5" / "fastprune_report.json").read_text())
    assert rows[1]["score_after"] == report["pruned"]["score"]
    assert rows[1]["macs_kept"] == report["macs"]["kept"]
    fastprune.load_pretrained(rows[1]["directory"])
    assert (out / "first-words" / "curve.csv").is_file()

    shutil.copy(job_file.parent / "train.tsv", job_file.parent / "unlabelled.tsv")
    before = (out / "logs" / "first-words.txt").read_text()
    again = run(job_file, "--json")
    assert again.exit_code == 0, again.output
    assert [row["state"] for row in json.loads(again.stdout)] == ["done"] * 4
    assert (out / "logs" / "first-words.txt").read_text() == before

    job_file.write_text(JOBS.replace("samples: 16", "samples: 8"))
    refused = run(job_file)
    assert refused.exit_code == 1
    (line,) = refused.output.strip().splitlines()
    assert "jobs.yaml, line 5" in line
    assert "samples 16 -> 8" in line
    assert "--overwrite" in line


def test_dry_run_lists_jobs_and_writes_nothing(job_file):
    before = sorted(job_file.parent.iterdir())
    result = run(job_file, "--dry-run")
    assert result.exit_code == 0
    assert "2 jobs, 4 results" in result.stdout
    listed = json.loads(run(job_file, "--dry-run", "--json").stdout)
    assert [job["name"] for job in listed] == ["first-words", "unlabelled"]
    assert sorted(job_file.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "arguments", "reason"),
    [
        ("out: out\n", [], "--out"),
        ("", ["--workers", "0"], "workers"),
        ("", ["--retries", "-1"], "retries"),
        ("", ["--out", "{here}"], "holds other files"),
        ("", ["--out", "{here}/train.tsv"], "is a file"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing(job_file, change, arguments, reason):
    job_file.write_text(JOBS.replace(change, "") if change else JOBS)
    before = sorted(job_file.parent.iterdir())
    result = run(job_file, *(a.format(here=job_file.parent) for a in arguments))
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("fastprune: error: ")
    assert reason in line
    assert sorted(job_file.parent.iterdir()) == before


def test_a_missing_model_is_named_before_anything_starts(job_file):
    shutil.rmtree(job_file.parent / "out", ignore_errors=True)
    job_file.write_text(JOBS.replace("models/second", "models/third"))
    result = run(job_file)
    assert result.exit_code == 1
    assert "jobs.yaml, line 7: there is no model" in result.output
    assert not (job_file.parent / "out").exists()
