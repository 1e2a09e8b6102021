"""The whole way on a tiny model: what is promised, what is reported, what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny_models import FAMILIES, tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import FastpruneError, find_sites, parse_budget, prune
from fastprune.budget import price_sites
from fastprune.errors import BudgetError, DataError, NumericalError
from fastprune.inputs import restore_dtypes
from fastprune.pipeline import prune_to_budgets
from fastprune.selection import METHODS
from fastprune.settings import Settings
from fastprune.tuning import TUNERS, tune_together

QUICK = {"samples": 7, "latency": False}


@pytest.fixture(scope="module")
def bert():
    return tiny("bert").float()


@pytest.fixture(scope="module")
def samples():
    return text_samples("classification", 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_all_the_way(family, tmp_path):
    model = tiny(family).float()
    data = samples_for(family)
    result = prune(model, data, "macs=0.5", samples=len(data), latency=False)
    assert 0.35 < result.report.macs.kept <= 0.5
    assert result.report.warnings == []
    result.save_pretrained(tmp_path / "out")
    loaded = fastprune.load_pretrained(tmp_path / "out")
    batch = next(data.batches(4))
    inputs = {
        k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "pixel_values")
    }
    with torch.no_grad():
        expected, got = result.model(**inputs)[0], loaded(**inputs)[0]
    assert torch.equal(expected, got)


def test_the_report_holds_what_users_look_for(bert, samples):
    result = prune(bert, samples, "macs=0.5", eval_data=samples, samples=16)
    report = json.loads(json.dumps(result.report.to_dict()))
    assert report["metric"] == "accuracy"
    assert 0 <= report["pruned"]["score"] <= 1
    assert report["dense"]["score"] == fastprune.evaluate(bert, samples, progress=False)
    assert report["macs"]["pruned"] <= 0.5 * report["macs"]["dense"]
    assert report["macs"]["kept"] == report["macs"]["pruned"] / report["macs"]["dense"]
    assert report["latency_ms"]["speedup"] > 0
    assert {"load", "calibrate", "search", "rearrange", "tune", "compact", "total"} <= set(
        report["timing_s"]
    )
    masks = result.masks
    for kind, name in (("attention", "heads"), ("ffn", "filters")):
        counts = [int(masks[s.name].sum()) for s in find_sites(bert) if s.kind == kind]
        assert report["units"][name] == counts
    assert sorted(report["sample_ids"]) == list(range(100, 116))
    assert report["budget"] == "macs=0.5"
    assert report["seed"] == 0
    assert report["versions"]["torch"] == torch.__version__


def test_the_model_handed_in_is_not_changed(bert, samples):
    before = {name: value.clone() for name, value in bert.state_dict().items()}
    prune(bert.train(), samples, **QUICK)
    assert bert.training
    assert all(p.requires_grad for p in bert.parameters())
    assert all(torch.equal(before[name], value) for name, value in bert.state_dict().items())
    bert.eval()


def test_training_mode_does_not_change_the_result(bert, samples):
    quiet = prune(bert.eval(), samples, **QUICK)
    noisy = prune(bert.train(), samples, **QUICK)
    bert.eval()
    for a, b in zip(quiet.model.parameters(), noisy.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_repeats_bitwise_and_follows_its_seed(bert, samples):
    first, second, other = (prune(bert, samples, seed=s, **QUICK) for s in (3, 3, 4))
    assert first.report.sample_ids == second.report.sample_ids != other.report.sample_ids
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_several_budgets_from_one_calibration_equal_single_runs(bert, samples):
    budgets = ("macs=0.6", "params=0.4")
    settings = Settings(budgets=tuple(map(parse_budget, budgets)), **QUICK)
    together = list(prune_to_budgets(bert, samples, settings))
    alone = [prune(bert, samples, budget, **QUICK) for budget in budgets]
    for a, b in zip(together, alone, strict=True):
        assert a.report.budget == b.report.budget
        assert a.report.units == b.report.units
        for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("method", "tune"),
    [
        (name, tune)
        for name, method in METHODS.items()
        for tune in TUNERS
        if tune == ("none" if method.trains else "weights") or not method.while_tuning
    ],
)
def test_methods_and_tuners_combine(bert, samples, monkeypatch, method, tune):
    monkeypatch.setattr("fastprune.selection.methods.PASS_STEPS", 10)  # three passes each
    result = prune(bert, samples, 0.4, method=method, tune=tune, **QUICK)
    assert result.report.macs.kept <= 0.4
    without = ("optin", "optin-parity", "cofi", "magnitude", "random")
    needs_gradients = method not in without or tune in ("scale", "bias")
    assert (result.report.timing_s["calibrate"] > 0) == needs_gradients


def test_pruned_models_prune_further(bert, samples):
    once = prune(bert, samples, "macs=0.6", **QUICK)
    twice = prune(once.model, samples, "macs=0.5", **QUICK)
    assert twice.report.macs.dense == pytest.approx(once.report.macs.pruned)
    assert twice.report.macs.kept <= 0.5
    assert all(
        b <= a
        for kind in ("heads", "filters")
        for a, b in zip(once.report.units[kind], twice.report.units[kind], strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_weight_types_are_computed_in_float32_and_come_back_as_they_were(samples, dtype):
    model = tiny("bert").to(dtype)
    result = prune(model, samples, 0.5, eval_data=samples, metric="loss", **QUICK)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert {p.dtype for p in model.parameters()} == {dtype}
    returned = copy.deepcopy(result.model).float()
    scored = fastprune.evaluate(returned, samples, "loss", progress=False)
    assert result.report.score.pruned == scored


def test_tuned_weights_that_overflow_their_type_are_refused(bert):
    tuned = copy.deepcopy(bert)
    tuned.bert.encoder.layer[0].output.dense.weight.data[0, 0] = 1e6
    with pytest.raises(NumericalError, match="overflows"):
        restore_dtypes(tuned, tiny("bert").half())


def test_impossible_budgets_fail_before_any_calibration(bert, samples, monkeypatch):
    monkeypatch.setattr("fastprune.survey.collect_statistics", lambda *a, **k: 1 / 0)
    for options in ({"budget": "macs=0.00001"}, {"budget": "macs=0.1", "uniform": True}):
        with pytest.raises(BudgetError, match="smallest"):
            prune(bert, samples, **options, **QUICK)


def test_aligned_and_uniform_widths(samples, bert):
    aligned = prune(bert, samples, 0.5, align=8, **QUICK)
    assert all(n % 8 == 0 or n == 37 for n in aligned.report.units["filters"])
    uniform = prune(bert, samples, 0.7, uniform=True, **QUICK)
    assert set(uniform.report.units["heads"]) == {4}
    assert len(set(uniform.report.units["filters"])) == 1


def test_a_uniform_model_loads_without_fastprune(tmp_path, samples, bert):
    import subprocess
    import sys

    prune(bert, samples, 0.7, uniform=True, **QUICK).save_pretrained(tmp_path / "m")
    code = (
        "import sys; from transformers import AutoModelForSequenceClassification as A;"
        f"A.from_pretrained({str(tmp_path / 'm')!r}); assert 'fastprune' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("method", ["weights", "scale"])
def test_statistics_from_disk_give_what_a_single_run_gives(bert, samples, tmp_path, method):
    single = prune(bert, samples, tune=method, **QUICK)
    drawn = samples.draw(7, 0)
    statistics = fastprune.collect_statistics(bert, drawn)
    statistics.save(tmp_path / "fisher.safetensors")
    loaded = fastprune.Statistics.load(tmp_path / "fisher.safetensors")
    again = prune(bert, drawn, tune=method, statistics=loaded, **QUICK)
    assert again.report.timing_s["calibrate"] == 0
    for name, mask in single.masks.items():
        assert torch.equal(mask, again.masks[name])


def test_statistics_of_another_model_are_refused(bert, samples):
    other = fastprune.collect_statistics(tiny("bert", num_hidden_layers=2).float(), samples)
    with pytest.raises(DataError, match="another model"):
        prune(bert, samples, statistics=other, **QUICK)
    ours = fastprune.collect_statistics(bert, samples, output_fisher=False, input_moments=False)
    assert prune(bert, samples, method="fisher", statistics=ours, **QUICK).report.warnings == []
    with pytest.raises(DataError, match="without output_fisher,"):
        prune(bert, samples, method="fisher", tune="scale", statistics=ours, **QUICK)
    with pytest.raises(DataError, match="without output_fisher and input_moments"):
        prune(bert, samples, statistics=ours, **QUICK)


@pytest.mark.parametrize("teacher", ["dense", "staged"])
def test_the_teacher_is_the_dense_model_or_one_pruned_half_way(bert, samples, monkeypatch, teacher):
    teachers = []
    monkeypatch.setattr(
        "fastprune.run.tune_together",
        lambda *args, **kwargs: (teachers.append(args[0]), tune_together(*args, **kwargs))[1],
    )
    prune(bert, samples, 0.36, teacher=teacher, **QUICK)
    units = [sum(site.units for site in find_sites(model)) for model in (teachers[0], bert)]
    assert (units[0] < units[1]) == (teacher == "staged")


def test_budgets_are_named_once():
    for budgets in ((), (parse_budget(0.5), parse_budget("macs=0.5"))):
        with pytest.raises(FastpruneError, match="budget"):
            Settings(budgets=budgets)


def test_strict_parity_tunes_by_scales_against_a_staged_teacher(bert, samples, monkeypatch):
    teachers = []

    def spy(teacher, students, *args, **kwargs):
        teachers.append(teacher)
        return tune_together(teacher, students, *args, **kwargs)

    monkeypatch.setattr("fastprune.run.tune_together", spy)
    result = prune(bert, samples, 0.5, preset="kwon2022", samples=16)
    assert (result.report.preset, result.report.tune) == ("kwon2022", "scale")
    # The original draws with replacement, in NumPy's order.
    import numpy as np

    draw = np.random.RandomState(0).choice(16, 16)
    assert result.report.sample_ids == [100 + i for i in draw.tolist()]
    # Its teacher is the model pruned to the square root of the budget, not rearranged.
    prices = price_sites(find_sites(bert), "macs", result.report.seq_len)
    kept = price_sites(find_sites(teachers[0]), "macs", result.report.seq_len).dense / prices.dense
    assert 0.5**0.5 - 0.05 < kept <= 0.5**0.5


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"budget": "macs=0"}, BudgetError),
        ({"budget": "macs=1.2"}, BudgetError),
        ({"budget": float("nan")}, BudgetError),
        ({"budget": "macs=0.00001"}, BudgetError),
        ({"budget": ["macs=0.5"]}, BudgetError),
        ({"max_length": 0}, FastpruneError),
        ({"method": "fischer"}, FastpruneError),
        ({"tune": "weight"}, FastpruneError),
        ({"preset": "kwon"}, FastpruneError),
        ({"teacher": "half"}, FastpruneError),
        ({"samples": 17}, DataError),
        ({"samples": 0}, FastpruneError),
        ({"batch_size": 0}, FastpruneError),
        ({"seed": -1}, FastpruneError),
        ({"seq_len": float("nan")}, FastpruneError),
        ({"metric": "acuracy"}, FastpruneError),
        ({"metric": "accuracy", "eval_data": None}, DataError),
        ({"dtype": "int8"}, FastpruneError),
        ({"device": "tpu"}, FastpruneError),
        ({"preset": "kwon2022", "align": 8}, FastpruneError),
        ({"preset": "kwon2022", "tune": "weights"}, FastpruneError),
    ],
    ids=str,
)
def test_bad_choices_are_one_clear_line(bert, samples, options, error):
    arguments = {"eval_data": samples, **QUICK, **options}
    with pytest.raises(error) as raised:
        prune(bert, samples, arguments.pop("budget", 0.5), **arguments)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_finite_are_named(samples):
    model = tiny("bert").float()
    model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("inf")
    with pytest.raises((FastpruneError, NumericalError), match=r"layer\.1\.output\.dense\.weight"):
        prune(model, samples, **QUICK)
