"""Sweeps of a tiny model: what is shared, what is saved, what is resumed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import pytest
import torch
from interruptions import counting, interrupted
from tiny_models import tiny
from tiny_samples import text_samples

import fastprune
from fastprune import GateTraining, Training
from fastprune.compaction.directories import REPORT_NAME, read_report
from fastprune.errors import FastpruneError
from fastprune.pareto.files import held

QUICK = {"samples": 16, "latency": False}
BUDGETS = ["macs=0.7", "macs=0.5", "params=0.4"]


@pytest.fixture
def bert():
    return tiny("bert").float()


@pytest.fixture
def samples():
    return text_samples("classification", 24)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statistics"


@pytest.fixture
def passes(monkeypatch):
    """Counts calibrations."""
    import fastprune.survey as survey

    calls = []
    collect = survey.collect_statistics

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return collect(*args, **kwargs)

    monkeypatch.setattr(survey, "collect_statistics", counted)
    return calls


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("options", [{}, {"method": "fisher"}, {"stages": 2}, {"tune": "bias"}])
def test_every_model_is_that_of_a_single_run(bert, samples, options):
    sweep = fastprune.sweep(bert, samples, BUDGETS, **QUICK, **options)
    assert {point.budget for point in sweep.points} == set(BUDGETS)
    assert [p.macs for p in sweep.points] == sorted((p.macs for p in sweep.points), reverse=True)
    for point in sweep.points:
        alone = fastprune.prune(bert, samples, point.budget, **QUICK, **options)
        assert same_weights(point.load(), alone.model), point.budget


def test_little_memory_changes_nothing(bert, samples, monkeypatch):
    together = fastprune.sweep(bert, samples, BUDGETS, **QUICK)
    monkeypatch.setattr("fastprune.run.free_bytes", lambda device: 0)
    apart = fastprune.sweep(bert, samples, BUDGETS, **QUICK)
    for a, b in zip(together.points, apart.points, strict=True):
        assert same_weights(a.load(), b.load())


def test_statistics_are_kept_for_other_budgets(bert, samples, passes, own_cache):
    first = fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    again = fastprune.sweep(bert, samples, ["macs=0.5", "macs=0.3"], **QUICK)
    assert len(passes) == 1
    assert len(list(own_cache.iterdir())) == 1
    assert same_weights(first.points[0].load(), again.points[0].load())


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"targets": "labels"}, {"method": "fisher"}, {"samples": 12}]
)
def test_other_settings_are_calibrated_anew(bert, samples, passes, change):
    fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    fastprune.sweep(bert, samples, ["macs=0.5"], **{**QUICK, **change})
    assert len(passes) == 2


def test_another_model_is_calibrated_anew(bert, samples, passes):
    fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    with torch.no_grad():
        bert.classifier.weight[0, 0] += 1e-3
    fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    assert len(passes) == 2


def test_no_cache_means_none(bert, samples, passes, own_cache):
    for _ in range(2):
        fastprune.sweep(bert, samples, ["macs=0.5"], cache=False, **QUICK)
    assert len(passes) == 2
    assert not own_cache.exists()


def test_a_damaged_cache_is_collected_anew(bert, samples, passes, own_cache):
    fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    (file,) = own_cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    fastprune.sweep(bert, samples, ["macs=0.5"], **QUICK)
    assert len(passes) == 2


def test_an_unwritable_cache_warns_and_the_sweep_goes_on(bert, samples, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="FASTPRUNE_CACHE"):
        found = fastprune.sweep(bert, samples, ["macs=0.5"], cache=tmp_path / "file", **QUICK)
    assert len(found.points) == 1


def test_the_cache_forgets_what_was_not_used_for_longest(
    bert, samples, passes, own_cache, monkeypatch
):
    fastprune.sweep(bert, samples, ["macs=0.5"], seed=0, **QUICK)
    fastprune.sweep(bert, samples, ["macs=0.5"], seed=1, **QUICK)
    (size,) = {path.stat().st_size for path in own_cache.iterdir()}
    monkeypatch.setattr("fastprune.calibration.cache.LARGEST_CACHE", 2 * size)
    fastprune.sweep(bert, samples, ["macs=0.5"], seed=0, **QUICK)  # used again: now the newest
    fastprune.sweep(bert, samples, ["macs=0.5"], seed=2, **QUICK)
    assert len(list(own_cache.iterdir())) == 2
    passes.clear()
    fastprune.sweep(bert, samples, ["macs=0.5"], seed=0, **QUICK)
    assert passes == []


def test_without_tuning_cached_statistics_need_no_pass(bert, samples, monkeypatch):
    options = {**QUICK, "tune": "none"}
    fastprune.sweep(bert, samples, ["macs=0.5"], **options)
    forward = type(bert).forward
    runs = []
    monkeypatch.setattr(
        type(bert), "forward", lambda *a, **k: (runs.append(1), forward(*a, **k))[1]
    )
    fastprune.sweep(bert, samples, ["macs=0.6", "macs=0.3"], **options)
    assert runs == []


def test_models_and_curve_are_saved(bert, samples, tmp_path, tokenizer):
    out = tmp_path / "out"
    sweep = fastprune.sweep(
        bert, samples, BUDGETS, out=out, eval_data=samples, tokenizer=tokenizer, samples=16
    )
    names = {"macs-0.7", "macs-0.5", "params-0.4"}
    assert {p.name for p in out.iterdir()} == names | {"curve.csv", "curve.json", "curve.png"}
    rows = list(csv.DictReader((out / "curve.csv").open()))
    curve = json.loads((out / "curve.json").read_text())
    assert [row["budget"] for row in rows] == [p.budget for p in sweep.points]
    assert [p["budget"] for p in curve["points"]] == [p.budget for p in sweep.points]
    assert curve["dense_score"] == sweep.dense_score
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    for point in sweep.points:
        assert point.model is None
        score = fastprune.evaluate(point.load(), samples)
        assert score == point.score
        assert point.report == read_report(point.directory)


def test_without_scores_there_is_no_picture(bert, samples, tmp_path):
    fastprune.sweep(bert, samples, ["macs=0.5"], out=tmp_path / "out", **QUICK)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "macs-0.5",
        "curve.csv",
        "curve.json",
    }


def test_a_sweep_goes_on_where_it_stopped(bert, samples, tmp_path, monkeypatch, passes):
    out = tmp_path / "out"
    monkeypatch.setattr("fastprune.run.free_bytes", lambda device: 0)  # one after the other
    import fastprune.pipeline as pipeline

    save, saved = pipeline.save_pretrained, []

    def save_once(*args, **kwargs):
        if saved:
            raise KeyboardInterrupt
        saved.append(1)
        save(*args, **kwargs)

    with monkeypatch.context() as context:
        context.setattr(pipeline, "save_pretrained", save_once)
        with pytest.raises(KeyboardInterrupt):
            fastprune.sweep(bert, samples, BUDGETS, out=out, **QUICK)
    assert [p.name for p in out.iterdir()] == ["macs-0.7"]
    before = (out / "macs-0.7" / "model.safetensors").stat()
    sweep = fastprune.sweep(bert, samples, BUDGETS, out=out, resume=True, **QUICK)
    after = (out / "macs-0.7" / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert {p.budget for p in sweep.points} == set(BUDGETS)
    assert len(passes) == 1


def test_a_finished_sweep_is_resumed_without_work_and_can_grow(
    bert, samples, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    fastprune.sweep(bert, samples, ["macs=0.7"], out=out, **QUICK)
    grown = fastprune.sweep(bert, samples, ["macs=0.5"], out=out, resume=True, **QUICK)
    assert [p.budget for p in grown.points] == ["macs=0.7", "macs=0.5"]
    monkeypatch.setattr(
        "fastprune.pipeline.Run", lambda *args: pytest.fail("there was nothing to do")
    )
    again = fastprune.sweep(bert, samples, ["macs=0.5"], out=out, resume=True, **QUICK)
    assert [p.report for p in again.points] == [p.report for p in grown.points]


def test_resuming_does_not_take_over_what_other_settings_made(bert, samples, tmp_path):
    out = tmp_path / "out"
    fastprune.sweep(bert, samples, ["macs=0.5"], out=out, **QUICK)
    with pytest.raises(FastpruneError, match="another model, data or settings"):
        fastprune.sweep(bert, samples, ["macs=0.5"], out=out, resume=True, seed=1, **QUICK)
    redone = fastprune.sweep(
        bert, samples, ["macs=0.5"], out=out, resume=True, overwrite=True, seed=1, **QUICK
    )
    assert redone.points[0].report["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budgets": []}, "no budget given"),
        ({"budgets": "macs=0.5"}, "a list of budgets"),
        ({"budgets": ["macs=0.5", 0.5]}, "given twice"),
        ({"budgets": ["macs=0.5", "macs=0.000001"]}, "cannot be reached: the smallest"),
        ({"resume": True}, "--out"),
        ({"methd": "obs"}, "did you mean method"),
        ({"budgets": ["flops=0.5"]}, "unknown budget"),
    ],
)
def test_what_cannot_be_swept_is_said_before_any_pass(bert, samples, passes, arguments, message):
    given = {"budgets": ["macs=0.5"], **QUICK, **arguments}
    with pytest.raises(FastpruneError, match=message) as raised:
        fastprune.sweep(bert, samples, given.pop("budgets"), **given)
    assert "\n" not in str(raised.value)
    assert passes == []


def test_existing_models_stay_unless_told_otherwise(bert, samples, tmp_path, passes):
    out = tmp_path / "out"
    fastprune.sweep(bert, samples, ["macs=0.5"], out=out, **QUICK)
    with pytest.raises(FastpruneError, match="--overwrite"):
        fastprune.sweep(bert, samples, ["macs=0.6", "macs=0.5"], out=out, **QUICK)
    assert len(passes) == 1
    assert not (out / "macs-0.6").exists()
    fastprune.sweep(bert, samples, ["macs=0.5"], out=out, overwrite=True, **QUICK)


@pytest.mark.parametrize("options", [{"method": "kprune"}, {"preset": "kwon2022"}])
def test_methods_that_share_less_sweep_as_well(bert, samples, options):
    found = fastprune.sweep(bert, samples, ["macs=0.7", "macs=0.4"], **QUICK, **options)
    for point in found.points:
        alone = fastprune.prune(bert, samples, point.budget, **QUICK, **options)
        assert same_weights(point.load(), alone.model), point.budget


def swept(bert, samples, out, **options):
    return fastprune.sweep(bert, samples, ["macs=0.5"], out=out, **QUICK, **options)


def test_what_a_killed_sweep_left_is_not_taken_for_finished(bert, samples, tmp_path):
    out = tmp_path / "out"
    swept(bert, samples, out)
    shutil.copytree(out / "macs-0.5", out / "copy")
    (out / "macs-0.5").rename(out / ".macs-0.5.12345678.partial")
    again = swept(bert, samples, out, resume=True)
    assert [p.directory.name for p in again.points] == ["macs-0.5"]
    assert (out / "macs-0.5" / "config.json").exists()
    assert not list(out.glob(".*"))


def test_a_model_that_was_just_being_replaced_comes_back(bert, samples, tmp_path):
    out = tmp_path / "out"
    before = swept(bert, samples, out)
    (out / "macs-0.5").rename(out / ".macs-0.5.12345678.previous")
    again = swept(bert, samples, out, resume=True)
    assert [p.report for p in again.points] == [p.report for p in before.points]
    assert (out / "macs-0.5").is_dir()


@pytest.mark.parametrize("damage", ["truncated", "missing", "report"])
def test_a_damaged_result_is_named_and_can_be_replaced(bert, samples, tmp_path, damage):
    out = tmp_path / "out"
    swept(bert, samples, out)
    weights, report = (out / "macs-0.5" / n for n in ("model.safetensors", REPORT_NAME))
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "missing":
        weights.unlink()
    else:
        found = json.loads(report.read_text())
        kept = {name: found[name] for name in ("budget", "fingerprint")}
        report.write_text(json.dumps(kept))
    with pytest.raises(FastpruneError, match="damaged"):
        swept(bert, samples, out, resume=True)
    (point,) = swept(bert, samples, out, resume=True, overwrite=True).points
    point.load()


def test_another_sweeps_curve_is_not_replaced_by_mistake(bert, samples, tmp_path):
    out = tmp_path / "out"
    swept(bert, samples, out)
    with pytest.raises(FastpruneError, match="resume=True"):
        fastprune.sweep(bert, samples, ["macs=0.4"], out=out, **QUICK)
    assert not (out / "macs-0.4").exists()


def test_a_sweep_keeps_others_out(bert, samples, tmp_path):
    out = tmp_path / "out"
    with held(out), pytest.raises(FastpruneError, match="another sweep is at work"):
        swept(bert, samples, out)
    assert not out.exists()
    swept(bert, samples, out)


def test_a_models_own_directory_is_no_place_for_a_sweep(bert, samples, tmp_path):
    fastprune.save_pretrained(bert, tmp_path / "model")
    with pytest.raises(FastpruneError, match="holds a model"):
        swept(bert, samples, tmp_path / "model")


@pytest.mark.parametrize("change", ["config", "statistics"])
def test_what_weights_do_not_show_counts_as_well(bert, samples, tmp_path, passes, change):
    first = fastprune.collect_statistics(bert, samples.select(range(12)))
    second = fastprune.collect_statistics(bert, samples.select(range(12, 24)))
    given = {"statistics": replace(second, tokens=first.tokens)} if change == "statistics" else {}
    before = {"statistics": first} if change == "statistics" else {}
    swept(bert, samples, tmp_path / "out", **before)
    if change == "config":
        bert.config.layer_norm_eps = 1e-3
    with pytest.raises(FastpruneError, match="another model, data or settings"):
        swept(bert, samples, tmp_path / "out", resume=True, **given)


def test_a_training_goes_on_where_it_was_interrupted(bert, samples, tmp_path, monkeypatch):
    steps = Training(epochs=3, batch_size=8, learning_rate=1e-3)
    training = GateTraining(training=steps, finetuning=replace(steps, epochs=1), gate_rate=0.5)
    given = {"method": "cofi", "training": training, "latency": False}
    budgets = ["params=0.6", "params=0.4"]
    whole = fastprune.sweep(bert, samples, budgets, **given)
    with interrupted(monkeypatch, steps=20):  # twelve are of the first budget
        fastprune.sweep(bert, samples, budgets, out=tmp_path / "out", **given)
    assert (tmp_path / "out" / "checkpoints").is_dir()
    assert not (tmp_path / "out" / "checkpoints" / "params-0.6").exists()
    with counting(monkeypatch) as taken:
        resumed = fastprune.sweep(
            bert, samples, budgets, out=tmp_path / "out", resume=True, **given
        )
    assert len(taken) == 12 - 6  # from the checkpoint of the second epoch on
    for ours, theirs in zip(resumed.points, whole.points, strict=True):
        assert same_weights(fastprune.load_pretrained(ours.directory), theirs.model)
    assert not (tmp_path / "out" / "checkpoints").exists()
