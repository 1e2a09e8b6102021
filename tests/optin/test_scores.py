"""Losses of single units against their definition: whole models, one unit masked, no shortcuts."""

from __future__ import annotations

import copy
import math

import plain
import pytest
import torch
from tiny_models import FAMILIES, tiny
from tiny_samples import samples_for, text_samples
from torch.nn import functional as F

from fastprune import compact, find_sites
from fastprune.errors import DataError, NumericalError
from fastprune.optin import score_units
from fastprune.structure import get_projection, set_projection

EPS = torch.finfo(torch.float32).eps


@pytest.fixture
def in_float64(monkeypatch):
    """Compare features in the type of these tests' models; the operation takes float32 at most."""

    def distance(features, teacher, out):
        student, dense = (F.normalize(x.double(), dim=-1) for x in (features, teacher))
        out += (student @ student.mT - dense @ dense.T).square().sum((1, 2))

    monkeypatch.setattr("fastprune.ops.trajectory_distance", distance)


def some_units(sites, step=6):
    """All heads and some filters, by site; and where they are in a packed vector."""
    units, positions, start = [], [], 0
    for index, site in enumerate(sites):
        chosen = range(0, site.units, 1 if site.kind == "attention" else step)
        units += [(index, unit) for unit in chosen]
        positions += [start + unit for unit in chosen]
        start += site.units
    return units, positions


# A divergence in float64 sums numbers of order one, probabilities times their logarithms: some
# twenty roundings for each of seven samples, sixteen times.
NO_DIVERGENCE = 16 * 7 * 20 * torch.finfo(torch.float64).eps


def assert_same(found, expected, rtol=1e-8):
    """The same products in float64, in another order and with unequal padding."""
    for ours, theirs, atol in zip(found, expected, (0, NO_DIVERGENCE), strict=True):
        assert theirs.max() > 1e4 * atol
        atol = max(atol, 1e-12 * float(theirs.max()))
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def at(losses, positions):
    return losses.trajectory[positions], losses.prediction[positions]


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_definition(in_float64, family):
    model, samples = tiny(family), samples_for(family)
    sites = find_sites(model)
    units, positions = some_units(sites)
    expected = plain.losses(model, sites, samples, units)
    found = score_units(model, sites, samples)
    assert_same(at(found, positions), expected)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_eager_attention_gives_the_same(in_float64, family):
    """It takes masks where the other takes none, and softmax is one of float32 in some families."""
    model, samples = tiny(family, attention="eager"), samples_for(family)
    sites = find_sites(model)
    units, positions = some_units(sites, 20)
    expected = plain.losses(model, sites, samples, units)
    assert_same(at(score_units(model, sites, samples), positions), expected, rtol=1e-5)


@pytest.mark.parametrize("empty", [(2,), (3,), (1, 4), (0, 5)], ids=str)
@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "llama", "distilbert"])
def test_sublayers_may_be_gone(in_float64, family, empty):
    """As an earlier stage may have left them; an FFN without filters has no features."""
    dense, samples = tiny(family), samples_for(family)
    masks = {s.name: torch.ones(s.units) for s in find_sites(dense)}
    for index in empty:
        masks[find_sites(dense)[index].name][:] = 0
    model = compact(dense, masks)
    sites = find_sites(model)
    units, positions = some_units(sites, 20)
    expected = plain.losses(model, sites, samples, units)
    assert_same(at(score_units(model, sites, samples), positions), expected)


def test_regression_is_measured_by_squares(in_float64):
    model, samples = tiny("bert", num_labels=1), text_samples("regression")
    sites = find_sites(model)
    units, positions = some_units(sites, 20)
    expected = plain.losses(model, sites, samples, units)
    assert_same(at(score_units(model, sites, samples), positions), expected)


def test_a_single_class_is_always_predicted(in_float64):
    model, samples = tiny("bert", num_labels=1), text_samples("classification")
    found = score_units(model, find_sites(model), samples)
    assert not found.prediction.any()
    assert found.trajectory.all()


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_a_unit_that_does_nothing_costs_nothing(in_float64, family):
    model, samples = tiny(family), samples_for(family)
    sites = find_sites(model)
    for site in sites:
        weight, bias = get_projection(model, site)
        weight = weight.clone()
        weight[:, : site.group] = 0
        set_projection(model, site, weight, bias)
    found = score_units(model, sites, samples)
    first = [sum(site.units for site in sites[:index]) for index in range(len(sites))]
    others = torch.ones(len(found.trajectory), dtype=torch.bool)
    others[first] = False
    # Stacked, sums are in another order: features differ by some hundred float64 roundings, and
    # L_MD sums the square of that over fewer than a million products.
    no_distance = 1e6 * (100 * torch.finfo(torch.float64).eps) ** 2
    for values, bound in zip(vars(found).values(), (no_distance, NO_DIVERGENCE), strict=True):
        assert values[first].max() <= bound < 1e-6 * values[others].median()


@pytest.mark.parametrize("family", ["bert", "deit", "qwen2"])
def test_passes_make_no_difference(in_float64, family):
    model, samples = tiny(family), samples_for(family)
    sites = find_sites(model)
    expected = score_units(model, sites, samples)
    for batch_size in (1, 3):
        found = score_units(model, sites, samples, batch_size=batch_size)
        assert_same(vars(found).values(), vars(expected).values())


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_the_model_is_left_as_it_was(in_float64, family):
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


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
def test_float32_is_compared_as_well_as_it_can_be(family, request):
    """One and the same features, through the operation and in float64."""
    model, samples = tiny(family).float(), samples_for(family)
    sites = find_sites(model)
    found = score_units(model, sites, samples)
    request.getfixturevalue("in_float64")
    expected = score_units(model, sites, samples)
    assert torch.equal(found.prediction, expected.prediction)
    # A row of unit length is off by (width / 2 + 2) eps at most, for its norm and the quotient;
    # each of rows x rows products by twice that, for two models, and by the sums over twice the
    # width. The root of a sum of squares, over the layers too, is off by the norm of all that.
    rows, width, layers = sum(samples.widths), sites[0].outputs, 3
    bound = math.sqrt(layers) * rows * 4 * width * EPS
    off = found.trajectory.sqrt() - expected.trajectory.sqrt()
    assert off.abs().max() <= bound < 0.01 * expected.trajectory.sqrt().max()


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2"])
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


def test_a_task_without_a_divergence_is_refused():
    model, samples = tiny("bert"), text_samples("translation")
    with pytest.raises(DataError, match="translation"):
        score_units(model, find_sites(model), samples)
