"""Points, the curve and the choice of a model, on made-up reports."""

from __future__ import annotations

import pytest

from fastprune.errors import FastpruneError
from fastprune.pareto import Point, Sweep


def point(budget, score, macs, *, metric="accuracy", dense=0.9, latency=None, params=None):
    return Point(
        {
            "budget": budget,
            "metric": metric,
            "dense": {"score": dense},
            "pruned": {"score": score},
            "macs": {"kept": macs},
            "params_total": {"kept": params or macs},
            "latency_ms": latency and {"dense": 10.0, "pruned": latency, "speedup": 10 / latency},
        }
    )


CURVE = Sweep(
    (
        point("macs=0.8", 0.90, 0.8, latency=8.0),
        point("macs=0.6", 0.86, 0.6, latency=5.0),
        point("macs=0.5", 0.88, 0.5, latency=6.0),
        point("macs=0.4", 0.70, 0.4, latency=4.0),
    )
)


def budgets(points):
    return [p.budget for p in points]


def test_points_that_nothing_beats():
    assert budgets(CURVE.pareto()) == ["macs=0.8", "macs=0.5", "macs=0.4"]
    assert budgets(CURVE.pareto("latency")) == ["macs=0.8", "macs=0.6", "macs=0.5", "macs=0.4"]


def test_equals_do_not_beat_each_other():
    twins = Sweep((point("macs=0.5", 0.8, 0.5), point("params=0.5", 0.8, 0.5)))
    assert len(twins.pareto()) == 2


def test_lower_can_be_better():
    curve = Sweep(
        (
            point("macs=0.8", 12.0, 0.8, metric="perplexity", dense=11.0),
            point("macs=0.6", 11.5, 0.6, metric="perplexity", dense=11.0),
            point("macs=0.4", 20.0, 0.4, metric="perplexity", dense=11.0),
        )
    )
    assert budgets(curve.pareto()) == ["macs=0.6", "macs=0.4"]
    assert [p.drop for p in curve.points] == [1.0, 0.5, 9.0]
    assert curve.pick("perplexity<=12").budget == "macs=0.6"


@pytest.mark.parametrize(
    ("condition", "picked"),
    [
        ("accuracy>=0.88", "macs=0.5"),
        ("score >= 0.88", "macs=0.5"),
        ("accuracy>0.88", "macs=0.8"),
        ("drop<=0.05", "macs=0.5"),
        ("drop<=0.05,latency<=5", "macs=0.6"),
        ("speedup>=2", "macs=0.4"),
        ("macs>0.5", "macs=0.6"),
        ("params<=0.5, accuracy>=0.8", "macs=0.5"),
    ],
)
def test_the_smallest_within_bounds_is_picked(condition, picked):
    assert CURVE.pick(condition).budget == picked


def test_smallest_by_another_cost():
    assert CURVE.pick("accuracy>=0.86", smallest="latency").budget == "macs=0.6"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("accuracy>=0.95", r"nearest: score 0\.9 at macs=0\.8"),
        ("acuracy>=0.8", "did you mean accuracy"),
        ("accuracy=0.8", "cannot read"),
        ("accuracy", "cannot read"),
        ("", "cannot read"),
        ("accuracy>=high", "not a number"),
        ("accuracy>=nan", "not a number"),
    ],
)
def test_conditions_that_cannot_be_met_or_read(condition, message):
    with pytest.raises(FastpruneError, match=message) as raised:
        CURVE.pick(condition)
    assert "\n" not in str(raised.value)


def test_what_was_not_measured_is_named():
    curve = Sweep((point("macs=0.5", None, 0.5, metric=None),))
    with pytest.raises(FastpruneError, match="--eval"):
        curve.pareto()
    with pytest.raises(FastpruneError, match="--eval"):
        curve.pick("score>=0.5")
    with pytest.raises(FastpruneError, match="latency"):
        curve.pick("latency<=5")
    assert curve.pick("macs<=0.5").budget == "macs=0.5"
