"""Losses of single units against their definition: whole models, one unit masked, no shortcuts."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import plain
import pytest
import torch
from tiny_models import DECODERS, FAMILIES, tiny
from tiny_samples import samples_for, text_samples

from fastprune import compact, find_sites
from fastprune.errors import DataError, NumericalError, UnsupportedModelError
from fastprune.optin import score_units
from fastprune.structure import get_projection, set_projection

EPS = torch.finfo(torch.float32).eps


def some_units(sites, step=6):
    """All heads and some filters, by site; and where they are in a packed vector."""
    units, positions, start = [], [], 0
    for index, site in enumerate(sites):
        chosen = range(0, site.units, 1 if site.kind == "attention" else step)
        units += [(index, unit) for unit in chosen]
        positions += [start + unit for unit in chosen]
        start += site.units
    return units, positions


def rounding(sites, samples):
    """By how much the root of an L_MD can be off.

    Features are compared in float32. Rounding them, their norms (sums over the width) and the
    quotients changes a unit row by (width / 2 + 2) eps at most, rows of two models change every
    product twice, and the products sum over twice the width: 4 width eps in each of rows x rows
    entries covers it. The root of a sum of squares changes by the norm of that, over all layers.
    """
    layers = 1 + max(site.layer for site in sites)
    return math.sqrt(layers) * sum(samples.widths) * 4 * sites[0].outputs * EPS


def assert_same(found, expected, sites, samples):
    trajectory, prediction = expected
    off = (found[0].sqrt() - trajectory.sqrt()).abs().max()
    bound = rounding(sites, samples)
    assert off <= bound < 0.01 * trajectory.sqrt().median()
    # Float64 throughout; embeddings are pooled in float32.
    scale = prediction.max()
    assert scale > 0
    precision = 64 * EPS if samples.task == "embedding" else 1e-10
    assert (found[1] - prediction).abs().max() <= precision * scale


def at(losses, positions):
    return losses.trajectory[positions], losses.prediction[positions]


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_definition(family):
    model, samples = tiny(family), samples_for(family)
    sites = find_sites(model)
    units, positions = some_units(sites)
    expected = plain.losses(model, sites, samples, units)
    found = score_units(model, sites, samples)
    assert_same(at(found, positions), expected, sites, samples)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_eager_attention_gives_the_same(family):
    """It takes masks, where the other takes none."""
    model, samples = tiny(family, attention="eager"), samples_for(family)
    sites = find_sites(model)
    units, positions = some_units(sites, 20)
    expected = plain.losses(model, sites, samples, units)
    assert_same(at(score_units(model, sites, samples), positions), expected, sites, samples)


@pytest.mark.parametrize("empty", [(2,), (3,), (1, 4), (0, 5)], ids=str)
@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "llama", "distilbert"])
def test_sublayers_may_be_gone(family, empty):
    """As an earlier stage may have left them; an FFN without filters has no features."""
    dense, samples = tiny(family), samples_for(family)
    masks = {s.name: torch.ones(s.units) for s in find_sites(dense)}
    for index in empty:
        masks[find_sites(dense)[index].name][:] = 0
    model = compact(dense, masks)
    sites = find_sites(model)
    units, positions = some_units(sites, 20)
    trajectory, prediction = plain.losses(model, sites, samples, units)
    found = at(score_units(model, sites, samples), positions)
    assert (found[0].sqrt() - trajectory.sqrt()).abs().max() <= rounding(sites, samples)
    assert (found[1] - prediction).abs().max() <= 1e-10 * prediction.max()


def test_regression_is_measured_by_squares():
    model, samples = tiny("bert", num_labels=1), text_samples("regression")
    sites = find_sites(model)
    units, positions = some_units(sites, 20)
    expected = plain.losses(model, sites, samples, units)
    assert_same(at(score_units(model, sites, samples), positions), expected, sites, samples)


def test_a_single_class_is_always_predicted():
    model, samples = tiny("bert", num_labels=1), text_samples("classification")
    found = score_units(model, find_sites(model), samples)
    assert not found.prediction.any()
    assert found.trajectory.all()


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_a_unit_that_does_nothing_costs_nothing(family):
    model, samples = tiny(family), samples_for(family)
    sites = find_sites(model)
    for site in sites:
        weight, bias = get_projection(model, site)
        weight = weight.clone()
        weight[:, : site.group] = 0
        set_projection(model, site, weight, bias)
    found = score_units(model, sites, samples)
    first = [sum(site.units for site in sites[:index]) for index in range(len(sites))]
    assert found.trajectory[first].sqrt().max() <= rounding(sites, samples)
    # Of logits in float64 that differ by rounding alone, the divergence is its square.
    assert found.prediction[first].max() <= 1e-20
    others = torch.ones(len(found.trajectory), dtype=torch.bool)
    others[first] = False
    assert found.prediction[others].min() > 1e-20


@pytest.mark.parametrize("family", ["bert", "deit", "qwen2"])
def test_passes_make_no_difference(family):
    model, samples = tiny(family), samples_for(family)
    sites = find_sites(model)
    expected = score_units(model, sites, samples)
    for batch_size in (1, 3):
        found = score_units(model, sites, samples, batch_size=batch_size)
        off = found.trajectory.sqrt() - expected.trajectory.sqrt()
        assert off.abs().max() <= rounding(sites, samples)
        torch.testing.assert_close(found.prediction, expected.prediction, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_the_model_is_left_as_it_was(family):
    model, samples = tiny(family).train(), samples_for(family)
    before = copy.deepcopy(model.state_dict())
    modules = {name: set(vars(module)) for name, module in model.named_modules()}
    config = model.config.to_dict()
    score_units(model, find_sites(model), samples)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config.to_dict() == config


@pytest.mark.parametrize("family", ["bert", "vit", *DECODERS[:1]])
def test_half_precision_keeps_the_order_of_what_matters(family):
    """bfloat16 rounds at 2^-9 in every product: small units drown, large ones do not."""
    model, samples = tiny(family).float(), samples_for(family)
    sites = find_sites(model)
    exact = score_units(model, sites, samples)
    half = score_units(model, sites, samples, dtype=torch.bfloat16)
    for ours, theirs in zip(vars(half).values(), vars(exact).values(), strict=True):
        ranks = torch.stack([values.argsort().argsort().double() for values in (ours, theirs)])
        assert torch.corrcoef(ranks)[0, 1] > 0.9


def test_what_is_not_finite_is_named():
    model, samples = tiny("bert").float(), text_samples("classification")
    model.get_submodule("bert.encoder.layer.1.output.dense").weight.data[0, 0] = torch.inf
    with pytest.raises(NumericalError, match=r"encoder\.layer\.\d.*not finite"):
        score_units(model, find_sites(model), samples)


def test_blocks_of_several_widths_are_refused():
    model, samples = tiny("bert"), text_samples("classification")
    first, *others = find_sites(model)
    with pytest.raises(UnsupportedModelError, match="one width"):
        score_units(model, [replace(first, outputs=16), *others], samples)


def test_a_task_without_a_divergence_is_refused():
    model, samples = tiny("bert"), text_samples("translation")
    with pytest.raises(DataError, match="translation"):
        score_units(model, find_sites(model), samples)
