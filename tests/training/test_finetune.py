"""Fine-tuning of pruned models: what is learned, saved, resumed and refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from interruptions import interrupted
from tiny_models import tiny
from tiny_samples import image_samples, samples_for, text_samples

import fastprune
from fastprune import finetune, prune, search_path
from fastprune.cli import main
from fastprune.data.samples import model_inputs
from fastprune.errors import CheckpointError, DataError, FastpruneError, NumericalError
from fastprune.merging.reduction import reduce_

FAST = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2}


def pruned(family="bert", data=None, **options):
    data = samples_for(family) if data is None else data
    given = {"method": "magnitude", "tune": "none", "latency": False, **options}
    return prune(tiny(family).float(), data, "macs=0.6", **given).model


@pytest.fixture
def samples():
    return text_samples("classification", 16)


def test_it_learns_and_keeps_what_was_removed_removed(samples, tmp_path):
    model = pruned(data=samples)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    found = finetune(model, samples, tmp_path / "out", eval_data=samples, metric="loss", **FAST)
    assert found.after < found.before
    assert found.steps == 16
    loaded = fastprune.load_pretrained(tmp_path / "out")
    assert {name: value.shape for name, value in loaded.state_dict().items()} == shapes
    inputs = model_inputs(next(samples.batches(8)))
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, found.model(**inputs).logits)
    report = json.loads((tmp_path / "out" / "fastprune_report.json").read_text())["finetuning"]
    assert report["score"] == {"before": found.before, "after": found.after}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_best_checkpoint_is_what_comes_out(samples, tmp_path, monkeypatch):
    """Scores are dictated: the second checkpoint of four is the best one."""
    scores, states = iter([0.1, 0.5, 0.9, 0.3, 0.2]), []

    def dictated(model, *_, **__):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores, 0.0)

    monkeypatch.setattr("fastprune.training.finetuning.evaluate", dictated)
    found = finetune(pruned(data=samples), samples, tmp_path / "out", eval_data=samples, **FAST)
    best = states[2]
    assert all(torch.equal(value, best[name]) for name, value in found.model.state_dict().items())
    assert not all(torch.equal(value, best[name]) for name, value in states[4].items())


@pytest.mark.parametrize("family", ["distilbert", "vit", "opt"])
def test_families_and_tasks(family, tmp_path):
    data = samples_for(family)
    found = finetune(pruned(family), data, tmp_path / "out", eval_data=data, metric="loss", **FAST)
    assert found.after < found.before


def test_uneven_heads_are_trained_on(samples, tmp_path):
    model = pruned(data=samples, method="random", granularity="dimensions")
    found = finetune(model, samples, tmp_path / "out", eval_data=samples, metric="loss", **FAST)
    assert found.after < found.before
    loaded = fastprune.load_pretrained(tmp_path / "out")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])


def test_an_interrupted_one_goes_on_as_if_nothing_had_happened(samples, tmp_path, monkeypatch):
    model = pruned(data=samples)
    model.save_pretrained(tmp_path / "model")
    options = {"save_every": 3, **FAST}
    source = fastprune.load_pretrained(tmp_path / "model")
    whole = finetune(source, samples, tmp_path / "whole", **options)
    source = fastprune.load_pretrained(tmp_path / "model")
    with interrupted(monkeypatch, 8):
        finetune(source, samples, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    source = fastprune.load_pretrained(tmp_path / "model")
    again = finetune(source, samples, tmp_path / "out", resume=True, **options)
    assert again.steps == whole.steps == 16
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
)
def test_a_damaged_checkpoint_is_passed_over(samples, tmp_path, monkeypatch, file, damage):
    """The one before it serves, and what comes out is what would have come out."""
    model = pruned(data=samples)
    options = {**FAST, "epochs": 1, "save_every": 1}
    whole = finetune(copy.deepcopy(model), samples, tmp_path / "whole", **options)
    with interrupted(monkeypatch, 3):
        finetune(copy.deepcopy(model), samples, tmp_path / "out", **options)
    damage(tmp_path / "out.checkpoints" / "checkpoint-3" / file)
    with pytest.warns(RuntimeWarning, match="checkpoint-3 is damaged"):
        again = finetune(model, samples, tmp_path / "out", resume=True, **options)
    assert again.steps == whole.steps == 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_what_fails_before_a_checkpoint_is_not_in_the_way(samples, tmp_path, monkeypatch):
    model = pruned(data=samples)

    def failing(self, closure=None):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        finetune(model, samples, tmp_path / "out", **FAST)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    (tmp_path / "out.checkpoints").mkdir()
    (tmp_path / "out.checkpoints" / "diary.txt").touch()
    with pytest.raises(CheckpointError, match="holds files that are no checkpoints"):
        finetune(model, samples, tmp_path / "out", **FAST)
    assert [path.name for path in tmp_path.rglob("*")] == ["out.checkpoints", "diary.txt"]


def test_a_file_in_the_way_of_checkpoints(samples, tmp_path):
    (tmp_path / "out.checkpoints").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*out\.checkpoints"):
        finetune(tiny("bert").float(), samples, tmp_path / "out", **FAST)


def test_nothing_to_train_and_nothing_to_train_on(samples, tmp_path):
    model = tiny("bert").float()
    model.requires_grad_(False)
    with pytest.raises(FastpruneError, match="all weights are frozen"):
        finetune(model, samples, tmp_path / "out", **FAST)
    broken = tiny("bert").float()
    broken.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(FastpruneError, match=r"weight 'classifier.weight' holds NaN"):
        finetune(broken, samples, tmp_path / "out", **FAST)
    answers = text_samples("question-answering", 8)
    answers.labels[3, 1] = 999
    with pytest.raises(DataError, match="sample 3 has its answer at tokens 1 to 999, but only"):
        finetune(tiny("roberta").float(), answers, tmp_path / "out", **FAST)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"metric": "accuracy"}, "needs evaluation data"),
        ({"learning_rate": 1e30}, "does not stay finite"),
    ],
)
def test_bad_input(samples, tmp_path, options, message):
    with pytest.raises(FastpruneError, match=message):
        finetune(pruned(data=samples), samples, tmp_path / "out", **{**FAST, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scored", [False, True])
def test_what_diverged_leaves_nothing(samples, tmp_path, scored):
    """Neither a model, nor checkpoints from which no other settings could go on."""
    held_out = samples if scored else None
    options = {**FAST, "learning_rate": 1e30, "save_every": 1, "eval_data": held_out}
    with pytest.raises(NumericalError, match="smaller learning rate"):
        finetune(pruned(data=samples), samples, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", [2, -1])
def test_a_class_the_model_lacks(samples, tmp_path, label):
    wrong = replace(samples, labels=torch.full((16,), label))
    for train, out in ((finetune, "out"), (search_path, "path.json")):
        with pytest.raises(DataError, match=f"class {label}, but the model only 0 to 1"):
            train(tiny("bert").float(), wrong, tmp_path / out)
    assert not list(tmp_path.iterdir())


def test_half_weights_are_trained_in_full(samples, tmp_path):
    """Added to bfloat16 itself, a step of 1e-4 leaves no trace on weights beyond 0.05."""
    # Half of the spacing at 0.05 = 1.6 * 2**-5 is 2**-5 * 2**-7 / 2 = 1.2e-4.
    options = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-4, "weight_decay": 0.0}
    half, full = pruned(data=samples).bfloat16(), pruned(data=samples).bfloat16().float()
    found = finetune(half, samples, tmp_path / "half", **options).model
    trained = finetune(full, samples, tmp_path / "full", **options).model.bfloat16()
    for name, value in trained.state_dict().items():
        assert found.state_dict()[name].dtype == torch.bfloat16
        assert torch.equal(found.state_dict()[name], value), name
    loaded = fastprune.load_pretrained(tmp_path / "half")
    assert loaded.dtype == torch.bfloat16


def test_a_gpu_the_trainer_does_not_take_is_refused(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("fastprune.training.loop.device_of", lambda _: torch.device("cuda:1"))
    with pytest.raises(FastpruneError, match="CUDA_VISIBLE_DEVICES"):
        finetune(pruned(data=samples), samples, tmp_path / "out", **FAST)
    assert not list(tmp_path.iterdir())


def test_the_model_is_not_written_over(samples, tmp_path):
    pruned(data=samples).save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="which is read"):
        finetune(tmp_path / "model", samples, tmp_path / "model", overwrite=True)


def test_the_commands_one_after_the_other(tokenizer, tmp_path):
    """One search, two budgets, one of them fine-tuned."""
    fastprune.save_pretrained(tiny("bert").float(), tmp_path / "model", tokenizer)
    words = ["good", "bad", "the cat sat", "a dog ran"]
    rows = [f"{words[i % 4]} {words[(i * 3 + 1) % 4]}\t{i % 2}" for i in range(24)]
    data = tmp_path / "data.tsv"
    data.write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")

    def run(*arguments):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        return done.output

    model, path = tmp_path / "model", tmp_path / "path.json"
    said = run("search", model, "--train", data, "--out", path, "--batch-size", 8)
    assert "units entered in 3 steps" in said
    run(
        "sweep", model, "--train", data, "--eval", data, "--method", "spp", "--path", path,
        "--samples", 16, "--budget", "macs=0.7", "--budget", "macs=0.5",
        "--out", tmp_path / "sweep",
    )  # fmt: skip
    said = run(
        "finetune", tmp_path / "sweep" / "macs-0.5", "--train", data, "--eval", data,
        "--epochs", 1, "--out", tmp_path / "tuned", "--json",
    )  # fmt: skip
    assert set(json.loads(said)) == {"metric", "before", "after", "steps", "seconds"}
    report = json.loads((tmp_path / "tuned" / "fastprune_report.json").read_text())
    assert (report["budget"], report["finetuning"]["epochs"]) == ("macs=0.5", 1.0)


def test_merged_tokens_do_not_go_with_gradient_checkpointing(tmp_path):
    """Blocks that are run again alone would not know what the earlier ones have merged."""
    model, images = tiny("vit", patch_size=2).float(), image_samples(8)
    reduce_(model, [17, 12, 9])
    model.gradient_checkpointing_enable()
    with pytest.raises(FastpruneError, match="turn gradient checkpointing off"):
        finetune(model, images, tmp_path / "out", **FAST)
    assert not list(tmp_path.iterdir())
