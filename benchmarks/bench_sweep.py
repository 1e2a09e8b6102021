"""Many budgets from one pass beside single runs.

    pytest benchmarks/bench_sweep.py --benchmark-only

A sweep of ten budgets and a run for the middle one take turns, both from the loaded model and
samples, without the cache. ``marginal_share`` in ``extra_info`` is what each further budget costs
by what the first one does, calibration included; ``speedup_over_single_runs`` takes the middle
budget for the mean of all.
"""

from __future__ import annotations

import pytest
import torch
from measure import compare

from fastprune import load_pretrained, load_samples, prune, sweep
from fastprune.inputs import load_tokenizer

SAMPLES = 2048
BUDGETS = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2]
MIDDLE = 0.5


@pytest.fixture(scope="module")
def inputs(sst2, request):
    model = load_pretrained(sst2["model"])
    tokenizer = load_tokenizer(sst2["model"], model)
    tiny = request.config.getoption("tiny")
    train, held_out = (
        load_samples(sst2[name], tokenizer, model_config=model.config, limit=32 if tiny else limit)
        for name, limit in (("train", SAMPLES), ("validation", None))
    )
    return model, train, held_out


@pytest.mark.parametrize("tune", ["weights", "none"])
@pytest.mark.parametrize("method", ["obs", "fisher"])
def test_further_budgets(benchmark, inputs, method, tune):
    """Neither scored nor timed."""
    model, samples, _ = inputs
    options = {"method": method, "tune": tune, "latency": False}
    measure(benchmark, model, samples, options)


def test_further_budgets_scored_and_timed(benchmark, inputs):
    """As users run it: every model is scored, and its latency measured."""
    model, samples, held_out = inputs
    measure(benchmark, model, samples, {"eval_data": held_out})


def measure(benchmark, model, samples, options) -> None:
    def single() -> None:
        prune(model, samples, MIDDLE, **options)

    def many() -> None:
        sweep(model, samples, BUDGETS, cache=False, **options)

    single()
    timed = compare(benchmark, torch.device("cpu"), many, {"one budget": single}, rounds=3)
    one, all_of_them = timed["baseline_seconds"]["one budget"], timed["seconds"]
    further = len(BUDGETS) - 1
    benchmark.extra_info.update(
        device="cpu",
        threads=torch.get_num_threads(),
        budgets=len(BUDGETS),
        **timed,
        marginal_share=(all_of_them - one) / further / one,
        speedup_over_single_runs=len(BUDGETS) * one / all_of_them,
    )
