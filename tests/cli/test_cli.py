"""The command line as people use and misuse it, on a tiny model in a real directory."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from click.testing import CliRunner
from tiny_models import tiny

import fastprune
from fastprune.cli import main
from fastprune.errors import FastpruneError
from fastprune.structure import find_inner_sites


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tokenizer):
    """A tiny classifier with its tokenizer, and data files good and bad."""
    root = tmp_path_factory.mktemp("cli")
    model = tiny("bert").float()
    fastprune.save_pretrained(model, root / "model", tokenizer)
    words = ["good", "bad", "the cat sat", "a dog ran", "very good film", "the house was bad"]
    rows = [f"{words[i % 6]} {words[(i * 5 + 1) % 6]}\t{i % 2}" for i in range(40)]
    (root / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    (root / "eval.tsv").write_text("sentence\tlabel\n" + "\n".join(rows[:20]) + "\n")
    (root / "empty.tsv").write_text("sentence\tlabel\n")
    (root / "unlabelled.tsv").write_text("sentence\ngood\nbad\n")
    (root / "strange.tsv").write_text("sentence\tlabel\ngood\t0\nbad\t7\n")
    return root


def run(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def prune_arguments(root, out, *extra):
    return [
        "prune", root / "model", "--train", root / "train.tsv", "--eval", root / "eval.tsv",
        "--samples", 16, "--out", out, *extra,
    ]  # fmt: skip


def test_prune_writes_a_model_that_reloads_and_a_report(workspace, tmp_path):
    result = run(*prune_arguments(workspace, tmp_path / "out", "--budget", "macs=0.6"))
    assert result.exit_code == 0, result.output
    assert "faster" in result.output
    report = json.loads((tmp_path / "out" / "fastprune_report.json").read_text())
    assert report["macs"]["kept"] <= 0.6
    scored = run("eval", tmp_path / "out", "--data", workspace / "eval.tsv", "--json")
    assert json.loads(scored.output)["score"] == report["pruned"]["score"]


@pytest.mark.parametrize("uniform", [False, True])
def test_the_hint_to_import_fastprune_stands_where_it_is_needed(workspace, tmp_path, uniform):
    extra = ["--uniform"] if uniform else []
    arguments = prune_arguments(workspace, tmp_path / "out", "--budget", "macs=0.7", *extra)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert ("import fastprune" in " ".join(result.output.split())) != uniform


def test_several_budgets_make_one_directory_each(workspace, tmp_path):
    out = tmp_path / "out"
    result = run(
        *prune_arguments(workspace, out, "--budget", "macs=0.6", "--budget", "params=0.4", "--json")
    )
    assert result.exit_code == 0, result.output
    assert [r["budget"] for r in json.loads(result.output)] == ["macs=0.6", "params=0.4"]
    assert sorted(p.name for p in out.iterdir()) == ["macs-0.6", "params-0.4"]


def test_quiet_prints_nothing(workspace, tmp_path):
    result = run(*prune_arguments(workspace, tmp_path / "out", "--quiet"))
    assert (result.exit_code, result.output) == (0, "")


def test_inspect_proves_the_sites(workspace):
    result = run("inspect", workspace / "model", "--json")
    found = json.loads(result.output)
    assert found["proof"] is True
    assert [site["units"] for site in found["sites"]] == [4, 37] * 3
    assert "holds" in run("inspect", workspace / "model").output


def test_inspect_looks_inside_heads(workspace, tmp_path):
    result = run("inspect", workspace / "model", "--inner", "--json")
    sites = json.loads(result.output)["sites"]
    assert [site["units"] for site in sites] == [32, 32, 37] * 3
    assert json.loads(result.output)["proof"] is True
    model = fastprune.load_pretrained(workspace / "model")
    inner = find_inner_sites(model)
    masks = {site.name: torch.arange(site.units) < 21 for site in inner}
    fastprune.save_pretrained(fastprune.compact(model, masks, inner), tmp_path / "narrow")
    for extra in ([], ["--inner"]):
        result = run("inspect", tmp_path / "narrow", "--json", *extra)
        found = json.loads(result.output)
        assert found["proof"] is True
        assert sum(s["units"] * s["params_per_unit"] for s in found["sites"]) == 3 * (
            21 * (4 * 32 + 3) + 21 * (2 * 32 + 1)
        )
    assert "holds" in run("inspect", tmp_path / "narrow").output


def test_doctor_checks_every_operation():
    result = run("doctor", "--json")
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert found["healthy"]
    assert set(found["self_check"]["cpu"]) == {
        "mask_grad", "fisher_outer", "greedy_rearrange", "gram", "tuning_system", "block_lstsq",
        "obs_greedy", "trajectory_distance", "path_step", "hard_concrete",
        "masked_norm", "masked_norm_backward",
    }  # fmt: skip
    assert "healthy" in run("doctor").output


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["--budget", "macs=0"], "positive"),
        (["--budget", "macs=1"], "between 0 and 1"),
        (["--budget", "macs=0.00001"], "smallest"),
        (["--budget", "flops=0.5"], "macs, params and latency"),
        (["--train", "{root}/missing.tsv"], "missing.tsv"),
        (["--train", "{root}/empty.tsv"], "empty.tsv"),
        (["--train", "{root}/strange.tsv", "--samples", "2"], "7"),
        (["--eval", "{root}/unlabelled.tsv"], "label"),
        (["--eval", "{root}/strange.tsv"], "7"),
        (["--label-column", "stars"], "stars"),
        (["--text-columns", "review"], "review"),
        (["--metric", "acuracy"], "accuracy"),
        (["--samples", "41"], "41"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--dtype", "int4"], "int4"),
    ],
    ids=str,
)
def test_misuse_is_one_line_and_leaves_nothing(workspace, tmp_path, changes, reason):
    changes = [change.format(root=workspace) for change in changes]
    result = run(*prune_arguments(workspace, tmp_path / "out", *changes))
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("fastprune: error: ")
    assert reason in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["missing", "file.txt", "empty", "truncated", "weightless"])
def test_models_that_cannot_be_loaded(workspace, tmp_path, model):
    path = tmp_path / model
    if model == "file.txt":
        path.write_text("not a model")
    elif model == "empty":
        path.mkdir()
    elif model in ("truncated", "weightless"):
        shutil.copytree(workspace / "model", path)
        weights = path / "model.safetensors"
        if model == "weightless":
            weights.unlink()
        else:
            weights.write_bytes(weights.read_bytes()[:1000])
    result = run("prune", path, "--train", workspace / "train.tsv", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1, result.output
    assert not (tmp_path / "out").exists()


def test_an_existing_directory_needs_overwrite(workspace, tmp_path):
    out = tmp_path / "out"
    assert run(*prune_arguments(workspace, out, "--quiet")).exit_code == 0
    before = (out / "model.safetensors").read_bytes()
    refused = run(*prune_arguments(workspace, out, "--budget", "macs=0.3"))
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert (out / "model.safetensors").read_bytes() == before
    allowed = run(*prune_arguments(workspace, out, "--budget", "macs=0.3", "--overwrite"))
    assert allowed.exit_code == 0
    assert (out / "model.safetensors").read_bytes() != before


def test_a_pruned_model_prunes_further(workspace, tmp_path):
    run(*prune_arguments(workspace, tmp_path / "one", "--budget", "macs=0.7", "--quiet"))
    arguments = prune_arguments(workspace, tmp_path / "two", "--budget", "macs=0.6", "--json")
    arguments[1] = tmp_path / "one"
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["macs"]["kept"] <= 0.6


@pytest.mark.parametrize(
    "moment", ["fastprune.survey.collect_statistics", "safetensors.torch.serialize_file"]
)
def test_an_interrupt_leaves_nothing_behind(workspace, tmp_path, monkeypatch, moment):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, interrupt)
    result = run(*prune_arguments(workspace, tmp_path / "out"))
    assert result.exit_code == 130
    last = result.output.strip().splitlines()[-1]
    assert last == "fastprune: interrupted; nothing was left half-written"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["cofi", "finetune", "sweep", "compare"])
def test_an_interrupt_says_what_can_go_on(monkeypatch, command):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "invoke", interrupt)
    result = run(command, "m", "--train", "t", "--eval", "e", "--out", "o")
    assert result.exit_code == 130
    assert result.output.strip().endswith("half-written; --resume goes on with it")


def test_warnings_of_a_run_are_lines_and_others_stay(workspace, tmp_path, monkeypatch):
    def warn(*args, **kwargs):
        warnings.warn("mind the gap", RuntimeWarning, stacklevel=2)
        warnings.warn("from a library", UserWarning, stacklevel=2)
        raise FastpruneError("enough")

    monkeypatch.setattr("fastprune.survey.collect_statistics", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *where: print(f"shown: {message}")
        result = run(*prune_arguments(workspace, tmp_path / "out"))
    assert "fastprune: warning: mind the gap\n" in result.output
    assert "shown: from a library\n" in result.output
    assert "shown: mind" not in result.output


def test_what_is_read_is_never_overwritten(workspace, tmp_path):
    """The dense model and the data are still there, whatever --overwrite allows."""
    model = tmp_path / "model"
    shutil.copytree(workspace / "model", model)
    shutil.copy(workspace / "train.tsv", model / "train.tsv")
    for source, train in (
        (model, workspace / "train.tsv"),
        (workspace / "model", model / "train.tsv"),
    ):
        result = run("prune", source, "--train", train, "--out", model, "--overwrite")
        assert result.exit_code == 1
        assert "which is read" in result.output
    assert (model / "train.tsv").is_file()


def test_a_model_without_a_tokenizer_is_refused(workspace, tmp_path):
    """transformers would make one up that knows no words, and scores would be wrong in silence."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(workspace / "model" / name, model)
    result = run("eval", model, "--data", workspace / "eval.tsv")
    assert result.exit_code == 1
    assert "holds no tokenizer" in result.output


def test_weights_of_more_layers_than_the_config_has_are_refused(workspace, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(workspace / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] = 2
    (model / "config.json").write_text(json.dumps(config))
    result = run("eval", model, "--data", workspace / "eval.tsv")
    assert result.exit_code == 1
    assert "layer.2" in result.output


def test_fewer_rows_than_the_default_are_all_used(workspace, tmp_path):
    arguments = prune_arguments(workspace, tmp_path / "out", "--json")
    del arguments[arguments.index("--samples") : arguments.index("--samples") + 2]
    assert len(json.loads(run(*arguments).output)["sample_ids"]) == 40


def test_half_precision_checkpoints_keep_their_type(workspace, tmp_path, tokenizer):
    fastprune.save_pretrained(tiny("bert").to(torch.bfloat16), tmp_path / "half", tokenizer)
    result = run(
        "prune", tmp_path / "half", "--train", workspace / "train.tsv", "--samples", 16, "--out",
        tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert fastprune.load_pretrained(tmp_path / "out").dtype == torch.bfloat16


def sweep_arguments(root, out, *extra):
    arguments = prune_arguments(root, out, "--budget", "macs=0.7", "--budget", "macs=0.4", *extra)
    return ["sweep", *arguments[1:]]


def test_sweep_saves_every_model_and_names_the_one_asked_for(workspace, tmp_path):
    out = tmp_path / "out"
    result = run(*sweep_arguments(workspace, out, "--pick", "score>=0"))
    assert result.exit_code == 0, result.output
    assert "macs=0.7: " in result.output
    assert f"picked: {out / 'macs-0.4'}" in result.output.replace("\n", "")
    reloaded = fastprune.load_pretrained(out / "macs-0.4")
    assert sum(p.numel() for p in reloaded.parameters()) < sum(
        p.numel() for p in fastprune.load_pretrained(workspace / "model").parameters()
    )


def test_sweep_resumes_and_prints_json(workspace, tmp_path):
    out = tmp_path / "out"
    first = run(*sweep_arguments(workspace, out, "--json"))
    again = run(*sweep_arguments(workspace, out, "--resume", "--json", "--pick", "drop<=2"))
    assert (first.exit_code, again.exit_code) == (0, 0), again.output
    points = json.loads(first.output)["points"]
    assert json.loads(again.output) == {"points": points, "picked": str(out / "macs-0.4")}


def test_sweep_quietly_prints_what_was_picked_alone(workspace, tmp_path):
    out = tmp_path / "out"
    result = run(*sweep_arguments(workspace, out, "--quiet", "--pick", "macs<=0.5"))
    assert (result.exit_code, result.output) == (0, f"{out / 'macs-0.4'}\n")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--pick", "accuracy"], "cannot read 'accuracy' as a condition"),
        (["--pick", "accuracy>=2"], "no model of this sweep has accuracy>=2 (nearest: "),
        (["--budget", "macs=0.7"], "given twice"),
        (["--budget", "macs=1e-9"], "the smallest for this model"),
        (["--cache", "x", "--no-cache"], "exclude each other"),
        (["--eval", "nowhere.tsv"], "nowhere.tsv"),
    ],
)
def test_sweep_says_in_one_line_what_is_wrong(workspace, tmp_path, extra, message):
    result = run(*sweep_arguments(workspace, tmp_path / "out", "--quiet", *extra))
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_condition_that_nothing_meets_leaves_the_models(workspace, tmp_path):
    out = tmp_path / "out"
    assert run(*sweep_arguments(workspace, out, "--pick", "score>2")).exit_code == 1
    assert (out / "macs-0.4" / "config.json").exists()
    assert (out / "curve.json").exists()


def test_sweep_refuses_what_exists_and_replaces_it_when_told(workspace, tmp_path):
    out = tmp_path / "out"
    assert run(*sweep_arguments(workspace, out)).exit_code == 0
    refused = run(*sweep_arguments(workspace, out))
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    other = run(*sweep_arguments(workspace, out, "--resume", "--seed", 1))
    assert other.exit_code == 1
    assert "another model, data or settings" in other.output
    assert run(*sweep_arguments(workspace, out, "--overwrite", "--seed", 1)).exit_code == 0
