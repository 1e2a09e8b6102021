"""The whole way with ``method="optin"``."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import FastpruneError, find_sites, prune
from fastprune.budget import parse_budget, price_sites
from fastprune.data.samples import model_inputs
from fastprune.optin import mixed, mixed_as_released, score_units
from fastprune.selection import search_masks
from fastprune.selection.packed import split_packed

METHODS = {"optin": mixed, "optin-parity": mixed_as_released}


@pytest.fixture(scope="module")
def bert():
    return tiny("bert").float()


@pytest.fixture(scope="module")
def samples():
    return text_samples("classification", 16)


@pytest.mark.parametrize("method", METHODS)
def test_what_stays_is_what_the_search_finds(bert, samples, method):
    result = prune(bert, samples, "macs=0.6", method=method, tune="none", samples=16, seed=3)
    sites = find_sites(bert)
    losses = score_units(bert, sites, samples.draw(16, 3), seed=3)
    prices = price_sites(sites, "macs", samples.mean_length)
    (mask,) = search_masks(METHODS[method](losses, sites), prices, [parse_budget("macs=0.6")])
    for name, expected in split_packed(mask, sites).items():
        assert torch.equal(result.masks[name], expected)


@pytest.mark.parametrize("tune", ["none", "scale", "weights", "bias"])
@pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
def test_a_pruned_model_is_saved_and_reloaded(family, tune, tmp_path):
    model, data = tiny(family).float(), samples_for(family)
    result = prune(
        model, data, "macs=0.5", method="optin", tune=tune, samples=len(data), latency=False
    )
    assert result.report.macs.kept <= 0.5
    result.save_pretrained(tmp_path / "out")
    loaded = fastprune.load_pretrained(tmp_path / "out")
    batch = model_inputs(next(data.batches(4)))
    with torch.no_grad():
        assert torch.equal(result.model(**batch)[0], loaded(**batch)[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options", [{"stages": 2}, {"uniform": True}, {"align": 8}, {"stages": 2, "uniform": True}]
)
def test_options_of_every_method(bert, samples, method, options):
    """Uniform layers of this family lose filters alone: half is out of reach."""
    result = prune(bert, samples, "macs=0.7", method=method, samples=16, latency=False, **options)
    assert 0.5 < result.report.macs.kept <= 0.7


def test_labels_are_not_looked_at(bert):
    options = {"method": "optin", "tune": "none", "samples": 7, "latency": False}
    with_labels = prune(bert, text_samples("classification"), "macs=0.5", **options)
    without = prune(bert, text_samples("classification", labels=False), "macs=0.5", **options)
    for name, mask in with_labels.masks.items():
        assert torch.equal(mask, without.masks[name])


def test_parity_is_for_text():
    model, data = tiny("vit").float(), samples_for("vit")
    with pytest.raises(FastpruneError, match="use method optin for images"):
        prune(model, data, "macs=0.5", method="optin-parity", samples=5, latency=False)
