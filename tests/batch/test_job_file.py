"""Job files: what they expand to, and the line that is named when they are wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fastprune.batch.job import Resources
from fastprune.batch.jobfile import read_job_file
from fastprune.cofi.choices import UNDER_GATES
from fastprune.errors import BatchError


@pytest.fixture
def write(zoo, tmp_path):
    """Write a job file beside links to the models and data."""
    for name in ("models", "train.tsv", "eval.tsv"):
        (tmp_path / name).symlink_to(zoo / name)

    def write(text: str):
        path = tmp_path / "jobs.yaml"
        path.write_text(text)
        return path

    return write


OK = "model: models/first, train: train.tsv, budgets: [macs=0.5]"
FULL = """\
out: results
defaults:
  budgets: [macs=0.8, {params: 0.5}]
  samples: 16
tasks:
  sst: {train: train.tsv, eval: eval.tsv}
  other: {train: eval.tsv, budgets: [0.4], seed: 3}
models:
  - models/first
  - {model: models/second, method: fisher, samples: 8}
jobs:
  - {model: models/first, task: sst, name: special, samples: 4, resources: {cpus: 2, gpus: 0.5}}
  - {model: models/first, train: train.tsv, budgets: [macs=0.5]}
"""


def test_models_times_tasks_then_single_jobs(write, tmp_path, zoo):
    file = read_job_file(write(FULL))
    jobs = {job.name: job for job in file.jobs}
    assert list(jobs) == [
        "first-sst", "first-other", "second-sst", "second-other", "special", "first",
    ]  # fmt: skip
    assert file.out == tmp_path / "results"
    assert list(map(str, jobs["first-sst"].budgets)) == ["macs=0.8", "params=0.5"]
    assert list(jobs["first-other"].directories().items()) == [("macs=0.4", "macs-0.4")]
    assert jobs["second-other"].options == {"method": "fisher", "samples": 8, "seed": 3}
    assert jobs["special"].options == {"samples": 4}
    assert jobs["special"].resources == Resources(cpus=2, gpus=0.5)
    assert jobs["first"].eval is None
    assert jobs["first-sst"].model == str(zoo / "models" / "first")
    assert jobs["first-sst"].train == str(zoo / "train.tsv")
    assert jobs["special"].place.endswith("jobs.yaml, line 12")


def test_a_job_survives_json(write):
    for job in read_job_file(write(FULL.replace("macs=0.8", "macs=123456789K"))).jobs:
        assert type(job).from_dict(json.loads(json.dumps(job.to_dict()))) == job


def test_hub_names_pass(write):
    path = write("jobs: [{model: bert-base-uncased, train: sst2, budgets: [0.5]}]")
    (job,) = read_job_file(path).jobs
    assert (job.model, job.train) == ("bert-base-uncased", "sst2")


def test_aliases_and_merges(write):
    path = write(
        "jobs:\n  - &a {model: models/first, train: train.tsv, budgets: [0.5], seed: 1}\n"
        "  - {<<: *a, model: models/second, seed: 2}\n"
    )
    assert [job.options["seed"] for job in read_job_file(path).jobs] == [1, 2]


def test_training_under_gates(write):
    training = "epochs: 2, finetune_epochs: 0, learning_rate: 2e-4, gates: [heads], save_every: 9"
    path = write(f"jobs: [{{{OK}, method: cofi, training: {{{training}}}}}]")
    chosen = read_job_file(path).jobs[0].settings().gate_training
    assert chosen.training == replace(UNDER_GATES, epochs=2, learning_rate=2e-4, save_every=9)
    assert (chosen.finetuning, chosen.gates) == (None, ("heads",))


def test_null_is_the_default(write):
    path = write(
        "defaults: {samples: 3, train: train.tsv, budgets: [0.5]}\n"
        "jobs: [{model: models/first, samples: null}]"
    )
    assert read_job_file(path).jobs[0].options == {}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "is empty"),
        ("# nothing\n", None, "is empty"),
        ("- a\n- b\n", 1, "keys with values"),
        ("out: x\n", 1, "give models or jobs"),
        ("out: x\njobs: []\n", 2, "jobs is empty"),
        ("models: models/first\n", 1, "models must be a list"),
        ("jobs:\n  - {model: [\n", 3, "not YAML"),
        ("jobs:\n\t- a\n", 2, "not YAML"),
        ("job:\n  - a\n", 1, "did you mean jobs?"),
        (f"jobs:\n  - {{{OK}, sampels: 5}}\n", 2, "did you mean samples?"),
        (f"jobs:\n  - {{{OK}, model: models/second}}\n", 2, "'model' is given already"),
        ("jobs: [{model: models/first, budgets: [0.5]}]", 1, "no train"),
        ("jobs: [{train: train.tsv, budgets: [0.5]}]", 1, "no model"),
        ("jobs: [{model: models/first, train: train.tsv}]", 1, "no budgets"),
        ("jobs: [{model: models/first, train: train.tsv, budgets: []}]", 1, "budgets is empty"),
        ("jobs: [{model: models/first, train: train.tsv, budgets: 0.5}]", 1, "must be a list"),
        ("jobs:\n- model: models/first\n  train: sst2\n  budgets:\n  - macs=2\n", 5, "0 and 1"),
        ("jobs:\n- model: models/first\n  train: sst2\n  budgets:\n  - flops=0.2\n", 5, "flops"),
        ("jobs:\n- model: models/first\n  train: train.tsv\n  budgets:\n  - 0.5\n  - .50\n", 6,
         "twice"),
        ("jobs:\n- model: models/thirst\n  train: train.tsv\n  budgets: [0.5]\n", 2, "thirst"),
        ("jobs:\n- model: models\n  train: train.tsv\n  budgets: [0.5]\n", 2, "config.json"),
        ("jobs:\n- model:\n  train: train.tsv\n  budgets: [0.5]\n", 2, "model must be text"),
        ("jobs:\n- model: models/first\n  train: trian.tsv\n  budgets: [0.5]\n", 3, "trian.tsv"),
        ("jobs:\n- model: models/first\n  train: sst3\n  budgets: [0.5]\n", 3, "did you mean sst2"),
        ("jobs:\n- model: models/first\n  train: models\n  budgets: [0.5]\n", 3, "is a directory"),
        (f"jobs:\n- {{{OK},\n   samples: many}}\n", 3, "samples must"),
        (f"jobs:\n- {{{OK},\n   samples: true}}\n", 3, "samples must"),
        (f"jobs:\n- {{{OK},\n   latency: 1}}\n", 3, "latency must be true or false"),
        (f"jobs:\n- {{{OK},\n   metric: no}}\n", 3, "metric must be text"),
        (f"jobs:\n- {{{OK},\n   text_columns: {{a: b}}}}\n", 3, "list of names"),
        (f"jobs:\n- {{{OK},\n   method: obsolete}}\n", 3, "unknown method"),
        (f"jobs:\n- {{{OK}, method: kprune,\n   tune: scale}}\n", 3, "tune"),
        (f"jobs:\n- {{{OK},\n   dtype: int4}}\n", 3, "int4"),
        (f"jobs:\n- {{{OK},\n   device: cuda:1}}\n", 3, "cuda:1"),
        (f"jobs:\n- {{{OK},\n   latency_table: none.json}}\n", 3, "no file"),
        (f"jobs:\n- {{{OK},\n   resources: {{cpus: 0}}}}\n", 3, "cpus"),
        (f"jobs:\n- {{{OK},\n   resources: {{gpus: 1.5}}}}\n", 3, "gpus"),
        (f"jobs:\n- {{{OK},\n   resources: {{tpus: 1}}}}\n", 3, "tpus"),
        (f"jobs:\n- {{{OK},\n   training: {{epochs: 2}}}}\n", 3, "obs does not train"),
        (f"jobs:\n- {{{OK}, method: cofi, training: {{\n   epoch: 2}}}}\n", 3, "mean epochs"),
        (f"jobs:\n- {{{OK}, method: cofi, training: {{\n   ramp: 2}}}}\n", 3, "ramp must be"),
        (f"jobs:\n- {{{OK}, method: cofi,\n   training: fast}}\n", 3, "training must be keys"),
        (f"jobs:\n- {{{OK},\n   task: sst}}\n", 3, "no task 'sst'"),
        (f"jobs:\n- {{{OK}}}\n- {{{OK}}}\n", 3, "from line 2"),
        (f"jobs:\n- {{{OK},\n   name: a/b}}\n", 3, "'a/b' cannot name"),
        (f"jobs:\n- {{{OK},\n   name: logs}}\n", 3, "'logs' cannot name"),
        (f"jobs:\n- {{{OK},\n   name: 2024-13-41}}\n", 3, "cannot be read"),
        ("tasks: {}\nmodels: [models/first]\n", 1, "tasks is empty"),
        (f"jobs:\n- {{{OK},\n   [a]: 1}}\n", 3, "not plain text"),
    ],
)  # fmt: skip
def test_the_line_and_the_reason(write, text, line, reason):
    path = write(text)
    with pytest.raises(BatchError) as caught:
        read_job_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert reason in message
    if line is not None:
        assert message.startswith(f"{path}, line {line}: "), message


def test_files_that_are_none(tmp_path):
    with pytest.raises(BatchError, match="cannot read"):
        read_job_file(tmp_path / "missing.yaml")
    with pytest.raises(BatchError, match="cannot read"):
        read_job_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("models: [h\xe4ngen]".encode("latin-1"))
    with pytest.raises(BatchError, match="UTF-8"):
        read_job_file(tmp_path / "latin.yaml")
