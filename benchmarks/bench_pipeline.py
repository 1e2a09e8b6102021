"""The whole pipeline beside the work it cannot do without, and beside the original's way.

    pytest benchmarks/bench_pipeline.py --benchmark-only

The floor is one forward and activation-gradient backward over the calibration samples. Runs on the
fine-tuned classifier in ``FASTPRUNE_ASSETS``; skipped where that is absent.
"""

from __future__ import annotations

import pytest
import torch

from fastprune import collect_statistics, compact, find_sites, load_pretrained, load_samples, prune
from fastprune.budget import parse_budget, price_sites
from fastprune.calibration.gradients import watch_mask_gradients
from fastprune.calibration.objective import make_objective
from fastprune.data.samples import model_inputs
from fastprune.inputs import load_tokenizer
from fastprune.selection import rearrange_masks, search_masks
from fastprune.selection.packed import split_packed
from fastprune.tuning import TUNERS, tune

SAMPLES = 512
ONCE = {"rounds": 3, "iterations": 1, "warmup_rounds": 1}


@pytest.fixture(scope="module")
def model(sst2):
    return load_pretrained(sst2["model"])


@pytest.fixture(scope="module")
def samples(sst2, model):
    tokenizer = load_tokenizer(sst2["model"], model)
    return load_samples(sst2["train"], tokenizer, model_config=model.config, limit=SAMPLES)


@pytest.fixture(scope="module")
def statistics(model, samples):
    return collect_statistics(model, samples)


@pytest.fixture(scope="module")
def masks(model, samples, statistics):
    sites = find_sites(model)
    prices = price_sites(sites, "macs", samples.mean_length)
    masks = search_masks(statistics.importance(), prices, [parse_budget(0.5)])
    return split_packed(rearrange_masks(statistics, masks)[0], sites)


def test_floor_forward_and_backward(benchmark, model, samples):
    objective = make_objective(samples.task, labelled=True, seed=0)

    def floor() -> None:
        # No sites are watched: what remains is the model's own work, down to the first FFN.
        leaf = model.bert.encoder.layer[0].register_forward_pre_hook(
            lambda module, args: (args[0].detach().requires_grad_(), *args[1:])
        )
        with watch_mask_gradients(model, []):
            for batch in samples.batches(32):
                index = batch.pop("sample_index")
                objective(model(**model_inputs(batch)), batch, index).sum().backward()
        leaf.remove()

    benchmark.pedantic(floor, **ONCE)


def test_floor_forward_of_the_pruned_model(benchmark, model, samples, masks):
    small = compact(model, masks)

    def forward() -> None:
        with torch.inference_mode():
            for batch in samples.batches(32):
                batch.pop("sample_index")
                small(**model_inputs(batch))

    benchmark.pedantic(forward, **ONCE)


def test_calibration(benchmark, model, samples):
    benchmark.pedantic(collect_statistics, (model, samples), **ONCE)


def test_search_and_rearrangement_of_ten_budgets(benchmark, model, samples, statistics):
    prices = price_sites(find_sites(model), "macs", samples.mean_length)
    budgets = [parse_budget(0.05 + 0.09 * i) for i in range(1, 11)]

    def select() -> None:
        rearrange_masks(statistics, search_masks(statistics.importance(), prices, budgets))

    benchmark.pedantic(select, **ONCE)


@pytest.mark.parametrize("method", ["weights", "scale"])
def test_tuning(benchmark, model, samples, masks, method):
    def run() -> None:
        tune(model, compact(model, masks), samples, TUNERS[method])

    benchmark.pedantic(run, **ONCE)


@pytest.mark.parametrize("options", [{}, {"preset": "kwon2022"}], ids=["fastprune", "kwon2022"])
def test_whole_pipeline(benchmark, model, samples, options):
    benchmark.pedantic(
        prune, (model, samples), {"samples": SAMPLES, "latency": False, **options}, **ONCE
    )
