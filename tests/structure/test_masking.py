"""Masks on live models."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_masks, tiny

from fastprune.errors import FastpruneError
from fastprune.structure import find_sites, get_projection, masked
from fastprune.structure.inputs import dummy_inputs


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "qwen2", "opt"])
def test_masking_is_zeroing_columns(family: str) -> None:
    model = tiny(family)
    inputs = dummy_inputs(model)
    masks = random_masks(find_sites(model))
    with masked(model, masks):
        result = model.base_model(**inputs).last_hidden_state
    for site in find_sites(model):
        weight, _ = get_projection(model, site)
        weight.mul_(masks[site.name].repeat_interleave(site.group))
    expected = model.base_model(**inputs).last_hidden_state
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_hooks_leave_with_the_context_even_on_errors() -> None:
    model = tiny("bert")
    inputs = dummy_inputs(model)
    before = model(**inputs).logits
    with pytest.raises(KeyError), masked(model, random_masks(find_sites(model))):
        raise KeyError
    assert torch.equal(model(**inputs).logits, before)


def test_dropped_units_contribute_nothing_even_if_not_finite() -> None:
    model = tiny("bert")
    site = find_sites(model)[1]
    model.get_submodule("bert.encoder.layer.0.intermediate.dense").bias.data[5] = torch.inf
    mask = torch.ones(site.units)
    mask[5] = 0
    with masked(model, {site.name: mask}):
        assert model(**dummy_inputs(model)).logits.isfinite().all()


def test_gradients_reach_zero_masks() -> None:
    model = tiny("bert")
    site = find_sites(model)[0]
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    with masked(model, {site.name: mask}):
        model(**dummy_inputs(model)).logits.square().sum().backward()
    assert (mask.grad != 0).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"nowhere": torch.ones(4)}, "no site is called 'nowhere'"),
        ({"bert.encoder.layer.0.output.dense": torch.ones(36)}, r"\(36,\).*37 units"),
        ({"bert.encoder.layer.0.output.dense": torch.full((37,), torch.nan)}, "not finite"),
    ],
)
def test_masks_that_do_not_fit(masks: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(FastpruneError, match=message), masked(tiny("bert"), masks):
        pass
