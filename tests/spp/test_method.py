"""``method="spp"`` on tiny models: what a run promises, and what it is made of."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import find_sites, parse_budget, prune
from fastprune.budget import price_sites
from fastprune.calibration.cache import StatisticsCache
from fastprune.errors import DataError, FastpruneError
from fastprune.pipeline import prune_to_budgets
from fastprune.selection.packed import unit_counts
from fastprune.settings import Settings
from fastprune.spp import FisherLoss, entry_order

QUICK = {"method": "spp", "samples": 16, "latency": False}


@pytest.fixture(scope="module")
def bert():
    return tiny("bert").float()


@pytest.fixture(scope="module")
def samples():
    return text_samples("classification", 16)


def test_budgets_of_a_run_are_nested_met_and_maximal(bert, samples):
    sites = find_sites(bert)
    budgets = tuple(parse_budget(share) for share in (0.8, 0.6, 0.4, 0.3))
    settings = Settings(budgets=budgets, tune="none", **QUICK)
    results = list(prune_to_budgets(bert, samples, settings))
    prices = price_sites(sites, "macs", results[0].report.seq_len)
    masks = [torch.cat([r.masks[site.name] for site in sites]) for r in results]
    largest = max(prices.per_unit)
    for budget, mask in zip(budgets, masks, strict=True):
        spent = prices.of_counts(unit_counts(mask, sites))
        assert budget.limit(prices.dense) - largest < spent <= budget.limit(prices.dense)
    for larger, smaller in itertools.pairwise(masks):
        assert (smaller <= larger).all()


@pytest.mark.parametrize("family", ["roberta", "distilbert", "vit", "gpt2", "llama", "xlm-roberta"])
def test_other_families_and_tasks(family, tmp_path):
    model, data = tiny(family).float(), samples_for(family)
    result = prune(model, data, 0.5, method="spp", samples=len(data), latency=False)
    assert 0.3 < result.report.macs.kept <= 0.5
    result.save_pretrained(tmp_path / "out")
    loaded = fastprune.load_pretrained(tmp_path / "out")
    for a, b in zip(result.model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_statistics_serve_it_from_disk_and_in_parts(bert, samples, tmp_path):
    single = prune(bert, samples, 0.5, **QUICK)
    parts = [
        fastprune.collect_statistics(bert, samples.select(p)) for p in (range(5), range(5, 16))
    ]
    (parts[0] + parts[1]).save(tmp_path / "both.safetensors")
    loaded = fastprune.Statistics.load(tmp_path / "both.safetensors")
    assert loaded.gradient_rows().shape == (16, sum(site.units for site in find_sites(bert)))
    again = prune(bert, samples, 0.5, statistics=loaded, **QUICK)
    for name, mask in single.masks.items():
        assert torch.equal(mask, again.masks[name])
    without = fastprune.collect_statistics(bert, samples, mask_gradients=False)
    with pytest.raises(DataError, match="without mask_gradients"):
        prune(bert, samples, 0.5, statistics=without, **QUICK)


def test_a_cached_calibration_serves_another_budget(bert, samples, tmp_path):
    settings = Settings(budgets=(parse_budget(0.5),), cache=tmp_path, **QUICK)
    (first,) = prune_to_budgets(bert, samples, settings)
    assert len(list((tmp_path / "statistics").iterdir())) == 1
    key = next((tmp_path / "statistics").iterdir()).stem
    rows = StatisticsCache(tmp_path).load(key).gradient_rows()
    assert len(rows) == 16
    (second,) = prune_to_budgets(bert, samples, settings)
    for name, mask in first.masks.items():
        assert torch.equal(mask, second.masks[name])


def test_rows_are_the_gradients_whose_blocks_fisher_sums(bert, samples):
    statistics = fastprune.collect_statistics(bert, samples)
    rows = statistics.gradient_rows()
    start = 0
    for i, size in enumerate(statistics.sizes):
        site = rows[:, start : start + size]
        start += size
        # The same rows in another order of summation: 16 products of float32.
        bound = 4 * 18 * torch.finfo(torch.float32).eps * (site.abs().T @ site.abs())
        assert ((site.T @ site - statistics.block(i)).abs() <= bound).all()


def test_cheap_units_enter_before_dear_ones_that_are_needed_as_much(bert):
    sites = find_sites(bert)
    loss = FisherLoss(torch.eye(sum(site.units for site in sites)))
    order = entry_order(loss.gradient, loss, sites, steps=50)
    prices = torch.cat([torch.full((s.units,), s.weights_per_unit) for s in sites])[order]
    assert (prices.diff() >= 0).all()


def test_stages_alignment_and_uniform_widths(bert, samples):
    staged = prune(bert, samples, 0.4, stages=2, **QUICK)
    assert staged.report.macs.kept <= 0.4
    aligned = prune(bert, samples, 0.5, align=8, **QUICK)
    assert all(n % 8 == 0 or n == 37 for n in aligned.report.units["filters"])
    uniform = prune(bert, samples, 0.7, uniform=True, **QUICK)
    assert len(set(uniform.report.units["filters"])) == 1


def test_mini_batches_make_rows_as_well(bert, samples):
    result = prune(bert, samples, 0.5, fisher="batch", batch_size=4, **QUICK)
    assert result.report.macs.kept <= 0.5
    with pytest.raises(FastpruneError, match="takes no fisher=batch"):
        prune(bert, samples, 0.5, **{**QUICK, "method": "obs"}, fisher="batch")


def test_it_repeats_bitwise(bert, samples):
    first, second = (prune(bert, samples, 0.4, **QUICK) for _ in range(2))
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_passes_of_the_masked_model_give_an_order_too(bert, samples, monkeypatch):
    monkeypatch.setattr("fastprune.selection.methods.PASS_STEPS", 20)
    result = prune(bert, samples, 0.5, **{**QUICK, "method": "spp-passes"}, tune="none")
    assert 0.3 < result.report.macs.kept <= 0.5
    again = prune(bert, samples, 0.5, **{**QUICK, "method": "spp-passes"}, tune="none")
    for name, mask in result.masks.items():
        assert torch.equal(mask, again.masks[name])
