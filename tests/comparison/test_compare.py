"""Comparisons on a tiny model: what is compared, saved, resumed and refused."""

from __future__ import annotations

import csv
import json
import statistics
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner
from tiny_models import tiny
from tiny_samples import image_samples, text_samples

import fastprune
from fastprune import GateTraining, Training
from fastprune.cli import main
from fastprune.comparison import Way
from fastprune.comparison.files import read_trials
from fastprune.comparison.ways import default_methods
from fastprune.errors import FastpruneError
from fastprune.selection import METHODS

QUICK = {"samples": 16}
BUDGETS = ["macs=0.7", "macs=0.4"]
FILES = {"comparison.csv", "comparison.json", "comparison.md", "comparison.png"}


@pytest.fixture
def bert():
    return tiny("bert").float()


@pytest.fixture
def samples():
    return text_samples("classification", 24)


@pytest.fixture
def compare(bert, samples):
    def run(methods=("fisher", "random"), tunes=("none", "weights"), seeds=(0, 1), **options):
        given = {**QUICK, "methods": methods, "tunes": tunes, "seeds": seeds, **options}
        return fastprune.compare(bert, samples, samples, BUDGETS, **given)

    return run


def test_scores_are_those_of_single_runs(compare, bert, samples):
    found = compare(seeds=(0,))
    assert [str(way) for way in found.ways] == [
        "fisher, none", "fisher, weights", "random, none", "random, weights",
    ]  # fmt: skip
    for trial in found.trials:
        for cell in trial.cells:
            alone = fastprune.prune(
                bert, samples, cell.budget, method=trial.way.method, tune=trial.way.tune,
                eval_data=samples, latency=False, **QUICK,
            )  # fmt: skip
            assert cell.score == alone.report.score.pruned
            assert cell.macs == alone.report.macs.kept


def test_means_and_deviations_are_over_seeds(compare):
    found = compare(methods=["random"], tunes=["none"], seeds=(0, 1, 2))
    way = Way("random", "none")
    for index, budget in enumerate(BUDGETS):
        scores = [trial.cells[index].score for trial in found.trials]
        mean = found.score(way, budget)
        assert mean.value == pytest.approx(statistics.fmean(scores))
        assert mean.deviation == pytest.approx(statistics.stdev(scores))
        assert mean.count == 3
    assert compare(methods=["random"], tunes=["none"], seeds=(0,)).rows()[0]["deviation"] is None


def test_what_is_learned_serves_every_way_to_tune(compare, monkeypatch):
    calls = []
    score = METHODS["optin"].score

    def slow(given):
        calls.append(given.seed)
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
        return score(given)

    for name in ("optin", "optin-parity"):
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], score=slow))
    found = compare(methods=["optin", "optin-parity"], seeds=(0, 1))
    assert calls == [0, 1]
    # Each counts what it would have taken alone.
    cells = [cell for trial in found.trials for cell in trial.cells]
    assert all(cell.seconds > 0.5 and cell.processor_seconds > 0.5 for cell in cells)


def test_seconds_are_of_the_processor_where_it_does_all_of_the_work(compare):
    found = compare(methods=["random"], tunes=["none"], seeds=(0,))
    (trial,), (way,) = found.trials, found.ways
    assert found.clock == "processor seconds"
    assert found.seconds(way) == statistics.median(c.processor_seconds for c in trial.cells)
    elsewhere = replace(found, trials=(replace(trial, device="cuda:0"),))
    assert elsewhere.clock == "seconds"
    assert elsewhere.seconds(way) == statistics.median(c.seconds for c in trial.cells)


def test_what_does_not_go_together_is_left_out_and_said(compare):
    found = compare(methods=["kprune", "magnitude"], tunes=["none", "weights"], seeds=(0,))
    assert [str(way) for way in found.ways] == [
        "kprune, weights", "magnitude, none", "magnitude, weights",
    ]  # fmt: skip
    assert list(found.left_out) == ["kprune, none"]
    assert "tune=none" in found.left_out["kprune, none"]


def test_what_does_not_go_with_the_task_is_left_out():
    found = fastprune.compare(
        tiny("vit").float(), image_samples(12), image_samples(12), ["macs=0.5"],
        methods=["optin-parity", "random"], tunes=["none"], seeds=(0,), samples=8,
    )  # fmt: skip
    assert [str(way) for way in found.ways] == ["random, none"]
    assert "text models" in found.left_out["optin-parity, none"]


def test_files_hold_what_was_found(compare, tmp_path):
    found = compare(out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert tuple(read_trials(tmp_path / "out")) == found.trials
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [row["score"] for row in found.rows()]
    table = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    for way in found.ways:
        assert all(str(found.score(way, budget)) in table for budget in BUDGETS)


def test_resuming_keeps_trials_and_makes_those_that_are_missing(compare, tmp_path):
    out = tmp_path / "out"
    first = compare(methods=["random"], out=out)
    both = compare(methods=["random", "magnitude"], out=out, resume=True)
    by_key = {(trial.way, trial.seed): trial for trial in both.trials}
    # Equal to the last digit, seconds included: they were not made again.
    assert all(by_key[trial.way, trial.seed] == trial for trial in first.trials)
    assert len(both.trials) == 8


def test_other_settings_or_a_damaged_file_start_again(compare, tmp_path):
    out = tmp_path / "out"
    first = compare(methods=["random"], tunes=["none"], out=out)
    again = compare(methods=["random"], tunes=["none"], out=out, resume=True, samples=12)
    assert {t.fingerprint for t in first.trials}.isdisjoint(t.fingerprint for t in again.trials)
    (out / "comparison.json").write_text('{"trials": [{"way"')
    compare(methods=["random"], tunes=["none"], out=out, resume=True)
    assert len(json.loads((out / "comparison.json").read_text())["trials"]) == 2


def test_an_interrupted_one_leaves_finished_trials(compare, tmp_path, monkeypatch):
    import fastprune.comparison.run as module

    made = []

    def failing(*given):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(original(*given))
        return made[-1]

    original = module._try
    monkeypatch.setattr(module, "_try", failing)
    with pytest.raises(KeyboardInterrupt):
        compare(out=tmp_path / "out")
    monkeypatch.undo()
    assert read_trials(tmp_path / "out") == made
    found = compare(out=tmp_path / "out", resume=True)
    assert list(found.trials[:2]) == made
    assert len(found.trials) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": []}, "no method"),
        ({"methods": ["fischer"]}, "unknown method 'fischer'"),
        ({"methods": ["fisher", "fisher"]}, "a method is given twice"),
        ({"tunes": ["weight"]}, "unknown tune 'weight'"),
        ({"methods": ["kprune"], "tunes": ["none"]}, "tune=none"),
        ({"seeds": []}, "needs seeds"),
        ({"seeds": [1, 1]}, "each of them once"),
        ({"seeds": [-1]}, "seed must be"),
        ({"stage": 2}, "did you mean stages"),
        ({"method": "fisher"}, "takes no option 'method'"),
        ({"resume": True}, "give out"),
    ],
)
def test_bad_input(compare, options, message):
    with pytest.raises(FastpruneError, match=message):
        compare(**options)


def test_it_needs_data_to_score_on(bert, samples):
    with pytest.raises(FastpruneError, match="needs held-out data to score on"):
        fastprune.compare(bert, samples, None, BUDGETS)


def test_places_that_are_taken(compare, tmp_path):
    out = tmp_path / "out"
    compare(methods=["random"], tunes=["none"], seeds=(0,), out=out)
    with pytest.raises(FastpruneError, match="--resume"):
        compare(out=out)
    (out / "comparison.md").unlink()
    (out / "comparison.md").mkdir()
    with pytest.raises(FastpruneError, match="is a directory"):
        compare(out=out, overwrite=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(FastpruneError, match="holds a model"):
        compare(out=tmp_path / "model")


def test_the_command(bert, tokenizer, tmp_path):
    fastprune.save_pretrained(bert, tmp_path / "model", tokenizer)
    words = ["good", "bad", "the cat sat", "a dog ran"]
    rows = [f"{words[i % 4]} {words[(i * 3 + 1) % 4]}\t{i % 2}" for i in range(24)]
    (tmp_path / "data.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    arguments = [
        "compare", tmp_path / "model", "--train", tmp_path / "data.tsv",
        "--eval", tmp_path / "data.tsv", "--samples", 16, "--method", "random",
        "--method", "kprune", "--tune", "none", "--tune", "weights", "--seeds", 2,
        "--budget", "macs=0.5", "--out", tmp_path / "out",
    ]  # fmt: skip
    run = CliRunner().invoke(main, list(map(str, arguments)))
    assert run.exit_code == 0, run.output
    assert "left out: kprune, none" in run.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    run = CliRunner().invoke(main, [*map(str, arguments), "--json", "--resume"])
    assert run.exit_code == 0, run.output
    assert len(json.loads(run.output)["rows"]) == 3


def test_going_on_loses_nothing(compare, tmp_path):
    out = tmp_path / "out"
    compare(methods=["fisher"], tunes=["none", "weights"], seeds=(0, 1), out=out)
    before = (out / "comparison.json").read_bytes()
    for fewer, lost in (
        ({"tunes": ["none"]}, "fisher, weights, seed 0; fisher, weights, seed 1"),
        ({"methods": ["random"]}, "fisher, none, seed 0"),
        ({"seeds": (0,)}, "fisher, none, seed 1"),
    ):
        given = {"methods": ["fisher"], "tunes": ["none", "weights"], "seeds": (0, 1), **fewer}
        with pytest.raises(FastpruneError, match=f"also holds .*{lost}"):
            compare(**given, out=out, resume=True)
        assert (out / "comparison.json").read_bytes() == before


def test_methods_that_train_are_compared_where_they_are_asked_for(bert, samples, tmp_path):
    """They train on all samples, and their seconds stand beside those of the others."""
    steps = Training(epochs=3, batch_size=4, learning_rate=1e-3)
    training = GateTraining(training=steps, finetuning=steps, gate_rate=0.5)
    found = fastprune.compare(
        bert, samples, samples, BUDGETS, methods=("fisher", "cofi"), seeds=(0,),
        training=training, out=tmp_path / "c",
    )  # fmt: skip
    assert [str(way) for way in found.ways] == [
        "fisher, none", "fisher, scale", "fisher, weights", "cofi, none",
    ]  # fmt: skip
    assert found.seconds(Way("cofi", "none")) > found.seconds(Way("fisher", "none"))
    alone = fastprune.prune(
        bert, samples, BUDGETS[1], method="cofi", training=training, eval_data=samples
    )
    assert found.trials[-1].cells[1].score == alone.report.score.pruned
    assert not found.left_out
    with pytest.raises(FastpruneError, match="tune=weights"):
        fastprune.compare(bert, samples, samples, BUDGETS, methods=["cofi"], tunes=["weights"])


def test_warnings_stand_below_the_table(bert, samples, tmp_path):
    steps = Training(epochs=1, batch_size=8, learning_rate=1e-3)
    found = fastprune.compare(
        bert, samples, samples, ["macs=0.4"], methods=["cofi"], tunes=["none"], seeds=(0,),
        training=GateTraining(training=steps, finetuning=None), out=tmp_path / "c",
    )  # fmt: skip
    (warning,) = found.warnings
    assert warning.startswith("cofi, none, macs=0.4, seed 0: after 3 steps the gates expect")
    assert (tmp_path / "c" / "comparison.md").read_text().endswith(f"\n- {warning}\n")


def test_methods_that_train_are_not_compared_by_default():
    assert set(METHODS) - set(default_methods()) == {"cofi"}
