from __future__ import annotations

import pytest

from fastprune.budget import Budget, parse_budget
from fastprune.errors import BudgetError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("macs=0.5", Budget("macs", 0.5)),
        (" params = .6 ", Budget("params", 0.6)),
        ("0.3", Budget("macs", 0.3)),
        (0.7, Budget("macs", 0.7)),
        ({"params": 0.25}, Budget("params", 0.25)),
        ("macs=250M", Budget("macs", 250e6, relative=False)),
        ("latency=0.7", Budget("latency", 0.7)),
        ("latency = 12MS", Budget("latency", 12.0, relative=False)),
        ({"latency": ".5ms"}, Budget("latency", 0.5, relative=False)),
        ("params=1.5k", Budget("params", 1500.0, relative=False)),
        ("MACS=1e-3", Budget("macs", 1e-3)),
        (Budget("macs", 0.5), Budget("macs", 0.5)),
    ],
)
def test_forms_users_write(given, expected):
    assert parse_budget(given) == expected


@pytest.mark.parametrize(
    "given",
    ["macs=0", "macs=-0.5", "macs=1", "macs=1.5", "macs=nan", "macs=inf",
     "latency=12M", "latency=12", "latency=0ms", "macs=5ms", "macs=",
     "", "macs=half", "flops=0.5", "macs=0.5=0.6", "macs=-5M", {"macs": 0.5, "params": 0.5}, {},
     True, None, 1.0, float("nan")],
)  # fmt: skip
def test_unusable_budgets_are_refused_in_one_line(given):
    with pytest.raises(BudgetError) as error:
        parse_budget(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["macs=0.5", "params=0.25", "macs=250M", "params=1.5K", "latency=0.7", "latency=0.12ms"]
)
def test_a_budget_reads_back_as_it_is_written(text):
    assert str(parse_budget(text)) == text
    assert parse_budget(str(parse_budget(text))) == parse_budget(text)


def test_limits():
    assert parse_budget("macs=0.5").limit(80.0) == 40.0
    assert parse_budget("macs=1K").limit(2000.0) == 1000.0
    with pytest.raises(BudgetError, match="keeps everything"):
        parse_budget("macs=1K").limit(1000.0)
    with pytest.raises(BudgetError, match="a pass of the model costs"):
        parse_budget("latency=10ms").limit(9.5)


def test_part_of_the_way_shrinks_by_equal_factors():
    assert parse_budget(0.25).part_way(dense=80.0, fraction=0.5) == parse_budget(0.5)
    assert parse_budget("macs=1K").part_way(dense=4000.0, fraction=0.5).value == 0.5


def test_a_share_becomes_an_absolute_number():
    assert parse_budget(0.25).absolute(dense=4000.0) == parse_budget("macs=1K")
