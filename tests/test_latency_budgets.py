"""Latency budgets from Python, the whole way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from latency_tables import known_table
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

from fastprune import FastpruneError, parse_budget, prune, sweep
from fastprune.budget import Budget
from fastprune.budget.latency.workload import Workload
from fastprune.errors import LatencyTableError
from fastprune.pipeline import prepare, prune_to_budgets
from fastprune.promise import promise_warnings, workload_of
from fastprune.report import Latency, Size
from fastprune.selection import METHODS
from fastprune.settings import Settings
from fastprune.structure import layer_units

QUICK = {"samples": 7, "latency": False}


@pytest.fixture(scope="module")
def bert():
    return tiny("bert").float()


@pytest.fixture(scope="module")
def samples():
    return text_samples("classification", 16)


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if not method.while_tuning]
)
def test_every_method_meets_the_budget(bert, samples, method):
    table = known_table(bert)
    result = prune(bert, samples, "latency=0.7", method=method, latency_table=table, **QUICK)
    assert table.estimate(result.model) <= 0.7 * table.dense_ms * (1 + 1e-9)
    assert table.estimate(result.model) > 0.55 * table.dense_ms
    assert all(n % 8 == 0 or n == 37 for n in layer_units(result.model)["ffn"])
    assert result.report.warnings == []


def test_alignment_is_the_users_choice(bert, samples):
    table = known_table(bert)
    result = prune(bert, samples, "latency=0.7", align=1, latency_table=table, **QUICK)
    assert not all(n % 8 == 0 or n == 37 for n in layer_units(result.model)["ffn"])


def test_stages_pruned_models_and_uniform_widths_keep_to_milliseconds(bert, samples):
    table = known_table(bert)
    staged = prune(bert, samples, "latency=7ms", stages=2, latency_table=table, **QUICK)
    assert table.estimate(staged.model) <= 7
    further = prune(staged.model, samples, "latency=6ms", latency_table=table, **QUICK)
    assert table.estimate(further.model) <= 6
    uniform = prune(bert, samples, "latency=0.95", uniform=True, latency_table=table, **QUICK)
    assert table.estimate(uniform.model) <= 0.95 * table.dense_ms


def test_sublayers_go_where_a_table_says_so(bert, samples):
    """All time is spent on attention being there at all."""
    table = known_table(bert, lambda n: 10.0, lambda n: 1e-3, fixed=1.0)
    result = prune(bert, samples, "latency=0.4", latency_table=table, **QUICK)
    units = layer_units(result.model)
    assert sorted(units["attention"]) == [0, 0, 4]
    assert units["ffn"] == [37] * 3


def test_without_a_table_one_is_measured_of_what_the_report_measures(bert, samples, monkeypatch):
    asked = []

    def measure(model, **options):
        asked.append(options)
        return known_table(model)

    monkeypatch.setattr("fastprune.pipeline.measure_latency_table", measure)
    budgets = (parse_budget("latency=0.7"), parse_budget("macs=0.5"))
    settings = Settings(budgets=budgets, batch_size=3, **QUICK)
    results = list(prune_to_budgets(bert, samples, settings))
    assert [result.report.budget for result in results] == ["latency=0.7", "macs=0.5"]
    length = round(samples.draw(7, settings.seed).mean_length)
    expected = {"batch": 3, "length": length, "dtype": settings.dtype, "compiled": False}
    assert asked == [{**expected, "progress": False}]
    list(prune_to_budgets(bert, samples, Settings(budgets=budgets[1:], **QUICK)))
    assert len(asked) == 1


@pytest.mark.parametrize("family", ["vit", "gpt2"])
def test_images_and_decoders(family):
    model, data = tiny(family).float(), samples_for(family)
    assert workload_of(data, Settings(budgets=(parse_budget(0.5),))).length >= 1
    table = known_table(model)
    result = prune(model, data, "latency=0.75", samples=len(data), latency_table=table)
    assert result.report.latency_ms.estimated.kept <= 0.75
    assert result.report.latency_ms.deviation is not None


def test_a_table_says_what_is_measured(bert, samples):
    result = prune(bert, samples, "macs=0.5", samples=7, latency_table=known_table(bert))
    latency = result.report.latency_ms
    assert (latency.batch, latency.length) == (2, 8)
    assert latency.estimated.dense == pytest.approx(known_table(bert).dense_ms)
    assert result.report.to_dict()["latency_ms"]["deviation"] == latency.deviation


def test_a_table_of_another_model_is_refused_before_data_are_read(bert):
    table = known_table(tiny("bert", num_hidden_layers=2))
    with pytest.raises(LatencyTableError, match="another model"):
        prune(bert, "missing.tsv", "latency=0.5", latency_table=table, tokenizer=object())


@pytest.mark.parametrize("options", [{"method": "kprune"}, {"preset": "kwon2022"}])
def test_what_does_not_go_with_latency_is_refused(options):
    with pytest.raises(FastpruneError, match="does not go with latency budgets") as error:
        Settings(budgets=(parse_budget("latency=0.5"),), **options)
    assert "\n" not in str(error.value)


def promise(budget, measured, dense=100.0):
    latency = Latency(dense, measured, 2, 8, estimated=Size(100.0, 50.0))
    return promise_warnings(tiny("bert"), budget, latency, None)


def test_a_promise_that_is_not_kept_is_a_warning():
    share, milliseconds = Budget("latency", 0.5), Budget("latency", 50.0, relative=False)
    assert promise(share, 52.0) == promise(share, 48.0) == promise(milliseconds, 52.0) == []
    (warning,) = promise(share, 53.0)
    assert "+6.0% off" in warning
    assert "53 ms, 0.530 of the dense" in warning
    assert promise(share, 47.0)
    # A machine that is twice as slow today keeps a promised share, but not milliseconds.
    assert promise(share, 100.0, dense=200.0) == []
    assert promise(milliseconds, 100.0, dense=200.0)
    assert promise(Budget("macs", 0.5), 90.0) == []


def test_workloads_say_what_they_are():
    assert str(Workload(4, 16, compiled=True)) == "4 x 16 tokens, float32, compiled"


def test_a_sweep_knows_a_table_by_what_it_says(bert, samples, tmp_path):
    """Moved elsewhere it is the same table; with other numbers it is not, wherever it lies."""
    table = known_table(bert)
    table.save(tmp_path / "a.json")
    table.save(tmp_path / "b.json")
    replace(table, fixed_ms=6.0).save(tmp_path / "c.json")
    settings = Settings(budgets=(parse_budget("latency=0.7"),), **QUICK)
    a, b, c, none = (
        prepare(bert, samples, replace(settings, latency_table=path)).fingerprint()
        for path in (*(tmp_path / f"{name}.json" for name in "abc"), None)
    )
    assert a == b
    assert len({a, c, none}) == 3


def test_a_sweep_mixes_latency_with_other_budgets(bert, samples, tmp_path):
    table = known_table(bert)
    budgets = ["latency=0.8", "macs=0.5"]
    options = {"latency_table": table, "out": tmp_path / "out", "cache": False, **QUICK}
    found = sweep(bert, samples, budgets, **options)
    assert {point.budget for point in found.points} == set(budgets)
    again = sweep(bert, samples, budgets, resume=True, **options)
    assert [point.report for point in again.points] == [point.report for point in found.points]
