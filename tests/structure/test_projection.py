"""Reading and writing output projections."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny

from fastprune.errors import FastpruneError, NumericalError
from fastprune.structure import find_sites, get_projection, set_projection
from fastprune.structure.inputs import dummy_inputs


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_weight_is_outputs_by_columns(family: str) -> None:
    model = tiny(family)
    for site in find_sites(model):
        x = torch.randn(3, site.columns, dtype=torch.float64)
        weight, bias = get_projection(model, site)
        assert weight.shape == (site.outputs, site.columns)
        expected = x @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(model.get_submodule(site.name)(x), expected)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_written_values_are_used(family: str) -> None:
    model = tiny(family)
    site = find_sites(model)[1]
    weight = torch.randn(site.outputs, site.columns)
    bias = torch.randn(site.outputs)
    set_projection(model, site, weight, bias)
    got_weight, got_bias = get_projection(model, site)
    assert torch.equal(got_weight, weight.double())
    assert got_bias is not None
    assert torch.equal(got_bias, bias.double())
    assert model.get_submodule(site.name).weight.requires_grad
    model.base_model(**dummy_inputs(model))


def test_refusals_leave_the_weights_alone() -> None:
    model = tiny("llama")
    site = find_sites(model)[0]
    weight, bias = get_projection(model, site)
    before = weight.clone()
    assert bias is None
    with pytest.raises(FastpruneError, match="no bias to set"):
        set_projection(model, site, weight * 2, torch.ones(site.outputs))
    with pytest.raises(FastpruneError, match="takes shape"):
        set_projection(model, site, weight[:, 1:] * 2)
    model.half()
    with pytest.raises(NumericalError, match=r"not finite in torch\.float16"):
        set_projection(model, site, torch.full_like(before, 1e6))
    assert torch.equal(get_projection(model, site)[0], before.half())
