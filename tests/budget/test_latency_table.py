"""Latency tables: what they estimate, whom they fit, and how they are stored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from latency_tables import by_filters, by_heads, known_table
from tiny_models import random_masks, tiny

from fastprune import FastpruneError, LatencyTable, compact, find_sites
from fastprune.budget import price_sites
from fastprune.budget.latency import Shape, SublayerLatency
from fastprune.errors import BudgetError, CheckpointError, LatencyTableError


@pytest.fixture(scope="module")
def model():
    return tiny("bert").float()


@pytest.fixture(scope="module")
def table(model):
    return known_table(model)


def test_counts_between_measured_ones_are_interpolated_and_none_beyond():
    shape = Shape("ffn", 1, 32, 64)
    curve = SublayerLatency(shape, (1, 4, 8), (1.0, 4.0, 6.0)).curve(6)
    assert curve.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0]


def test_an_estimate_is_the_rest_and_what_every_sublayer_takes(model, table):
    masks = random_masks(find_sites(model))
    masks[find_sites(model)[2].name].zero_()
    expected = 5.0
    for site in find_sites(model):
        kept = int(masks[site.name].sum())
        expected += by_heads(kept) if site.kind == "attention" else by_filters(kept)
    assert table.estimate(compact(model, masks)) == pytest.approx(expected, rel=1e-12)
    assert table.estimate(model) == pytest.approx(table.dense_ms, rel=1e-12)


def test_prices_are_the_table(model, table):
    sites = find_sites(model)
    prices = price_sites(sites, "latency", 9, table)
    assert prices.dense == pytest.approx(table.dense_ms)
    assert prices.of_counts([0] * len(sites)) == table.fixed_ms
    assert not prices.linear
    with pytest.raises(BudgetError, match="macs or params"):
        assert prices.per_unit
    with pytest.raises(BudgetError, match="fastprune lut"):
        price_sites(sites, "latency", 9)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("electra", {}, "BertForSequenceClassification, here ElectraForSequenceClassification"),
        ("bert", {"num_hidden_layers": 2}, "layers: 3, here 2"),
        ("bert", {"num_attention_heads": 2}, "heads of 16 columns"),
        ("bert", {"intermediate_size": 40}, "ends at 37 ffn units"),
    ],
)
def test_another_model_is_refused_with_what_differs(table, family, options, reason):
    with pytest.raises(LatencyTableError, match=reason) as error:
        table.check_fit(tiny(family, **options))
    assert "\n" not in str(error.value)


def test_pruned_models_fit_the_table_of_the_dense_one(model, table):
    table.check_fit(compact(model, random_masks(find_sites(model))))


def test_other_places_are_warned_of_by_name(model, table):
    assert table.warnings(model) == []
    elsewhere = replace(table, place=replace(table.place, device="Abacus 3000", threads=99))
    (warning,) = elsewhere.warnings(model)
    assert f"device Abacus 3000, here {table.place.device}" in warning
    assert f"threads 99, here {torch.get_num_threads()}" in warning
    assert "\n" not in warning
    (warning,) = table.warnings(tiny("bert").to(torch.bfloat16))
    assert "weights float32, here bfloat16" in warning


def test_a_busy_machine_is_warned_of(model):
    (warning,) = known_table(model, spread=0.2).warnings(model)
    assert "20%" in warning
    (warning,) = replace(known_table(model), parts=1.2).warnings(model)
    assert "120% of the model" in warning


def test_a_table_comes_back_from_disk_as_it_was(table, tmp_path):
    path = tmp_path / "table.json"
    table.save(path)
    assert LatencyTable.load(path) == table
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CheckpointError, match="--overwrite"):
        table.save(path)
    replace(table, fixed_ms=6.0).save(path, overwrite=True)
    assert LatencyTable.load(path).fixed_ms == 6.0


def test_a_failed_write_leaves_the_previous_table(table, tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    table.save(path)
    before = path.read_text()

    def full_disk(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(CheckpointError, match="no space left"):
        table.save(path, overwrite=True)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("target", ["", "missing/table.json"])
def test_places_that_no_file_can_be_written_to(table, tmp_path, target):
    with pytest.raises(CheckpointError, match="directory"):
        table.save(tmp_path / target)


def _without(name):
    return lambda values: values.pop(name)


def _with(value, *path):
    def change(values):
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        *map(_without, ("format", "architecture", "layers", "workload", "place", "sublayers",
                        "fixed_ms", "dense_ms", "parts", "spread", "date")),
        _with("fastprune latency table 0", "format"),
        _with(3, "architecture"),
        _with("3", "layers"),
        _with(True, "layers"),
        _with(float("nan"), "fixed_ms"),
        _with(-1.0, "dense_ms"),
        _with("fast", "spread"),
        _with("int4", "workload", "dtype"),
        _with(0, "workload", "batch"),
        _with([], "place"),
        _with("two", "place", "threads"),
        _with([], "sublayers"),
        _with(7, "sublayers"),
        _with("conv", "sublayers", 0, "kind"),
        _with({}, "sublayers", 0, "milliseconds"),
        _with({"2": 1.0, "1": 2.0}, "sublayers", 0, "milliseconds"),
        _with({"0": 1.0}, "sublayers", 0, "milliseconds"),
        _with({"one": 1.0}, "sublayers", 0, "milliseconds"),
        _with({"1": 0.0}, "sublayers", 0, "milliseconds"),
        _with({"1": None}, "sublayers", 0, "milliseconds"),
        lambda values: values["sublayers"].append(values["sublayers"][0]),
    ],
)  # fmt: skip
def test_a_damaged_table_is_one_line(table, tmp_path, damage):
    path = tmp_path / "table.json"
    table.save(path)
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(LatencyTableError, match=r"table\.json") as error:
        LatencyTable.load(path)
    assert "\n" not in str(error.value)
    assert "fastprune lut" in str(error.value)


@pytest.mark.parametrize("content", [None, "", "{", "[]", b"\xff\xfe", "null"])
def test_what_is_no_table_is_one_line(tmp_path, content):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FastpruneError, match=r"table\.json") as error:
        LatencyTable.load(path)
    assert "\n" not in str(error.value)
