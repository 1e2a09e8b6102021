"""Dimensions inside heads: found in order, priced right, masked as if weights were scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny
from transformers import BertConfig, BertModel

from fastprune.budget import price_sites
from fastprune.compaction import compact
from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.structure import Site, all_head_widths, find_inner_sites, find_sites, masked
from fastprune.structure.inputs import dummy_inputs
from fastprune.structure.projection import as_projection, weight_view

FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "vit", "deit", "opt")
ROUNDING = 256 * torch.finfo(torch.float64).eps  # about 100 terms, through six sublayers


def outputs(model: Any) -> torch.Tensor:
    return model.base_model(**dummy_inputs(model)).last_hidden_state


def fractions(sites: list[Site], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {s.name: torch.rand(s.units, generator=generator, dtype=torch.float64) for s in sites}


def bert_base() -> BertModel:
    with torch.device("meta"):
        return BertModel(BertConfig())


def test_what_a_dimension_of_bert_base_costs() -> None:
    qk, v, ffn = find_inner_sites(bert_base())[:3]
    assert (qk.kind, qk.units, qk.weights_per_unit, qk.biases_per_unit) == ("qk", 768, 2 * 768, 2)
    assert (v.kind, v.units, v.weights_per_unit, v.biases_per_unit) == ("v", 768, 2 * 768, 1)
    assert (ffn.units, ffn.weights_per_unit, ffn.biases_per_unit) == (3072, 2 * 768, 1)
    prices = price_sites([qk, v, ffn], "macs", 128).per_unit
    # A dimension of queries is multiplied with one of keys for every pair of tokens.
    assert prices == (128 * 2 * 768 + 128**2, 128 * 2 * 768 + 128**2, 128 * 2 * 768)


def test_what_a_shared_dimension_of_bert_base_costs() -> None:
    alone, shared = (find_inner_sites(bert_base(), shared=shared)[:2] for shared in (False, True))
    for one, twelve in zip(alone, shared, strict=True):
        assert twelve.units == 64
        assert twelve.weights_per_unit == 12 * one.weights_per_unit
        assert twelve.biases_per_unit == 12 * one.biases_per_unit
        assert twelve.pairs_per_unit == 12 * one.pairs_per_unit


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_dimensions_and_heads_are_two_ways_to_cut_the_same(family: str, shared: bool) -> None:
    model = tiny(family)
    sites = find_inner_sites(model, shared=shared)
    assert [(s.layer, s.kind) for s in sites] == [
        (layer, kind) for layer in range(3) for kind in ("qk", "v", "ffn")
    ]
    assert [s.units for s in sites] == [8 if shared else 32, 8 if shared else 32, 37] * 3
    assert len({s.name for s in sites}) == 9
    for budget in ("macs", "params"):
        inner, whole = (price_sites(s, budget, 10).dense for s in (sites, find_sites(model)))
        assert inner == whole


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_scale_queries_values_and_filters(family: str, shared: bool) -> None:
    """Dense models with the rows of their weights scaled do the same, without any hook."""
    model = tiny(family)
    sites = find_inner_sites(model, shared=shared)
    masks = fractions(sites)
    with masked(model, masks, sites), torch.no_grad():
        found = outputs(model)
    for site in sites:
        rows = masks[site.name].repeat(4) if shared and site.kind != "ffn" else masks[site.name]
        gate = site.gates[0]
        projection = as_projection(model.get_submodule(gate), gate)
        weight_view(projection).mul_(rows[:, None])
        projection.bias.data.mul_(rows)
    with torch.no_grad():
        expected = outputs(model)
    assert all(len(s.gates) == (2 if s.kind == "qk" else 1) for s in sites)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING * float(expected.abs().max()))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_masks_get_gradients(family: str, shared: bool) -> None:
    """Against differences: h**2 of truncation, eps / h of rounding, each relative to the slope."""
    model = tiny(family)
    sites = find_inner_sites(model, shared=shared)[:3]
    masks = {s.name: torch.ones(s.units, dtype=torch.float64) for s in sites}

    def loss() -> torch.Tensor:
        with masked(model, masks, sites):
            return outputs(model).square().mean()

    for site in sites:
        masks[site.name].requires_grad_()
        loss().backward()
        gradient = masks[site.name].grad
        masks[site.name] = masks[site.name].detach()
        assert gradient is not None
        for unit in (0, site.units - 1):
            ends = []
            for step in (1e-5, -1e-5):
                masks[site.name][unit] = 1 + step
                ends.append(loss().detach())
            masks[site.name][unit] = 1
            slope = (ends[0] - ends[1]) / 2e-5
            scale = float(gradient.abs().max())
            assert abs(float(slope - gradient[unit])) <= 1e-6 * scale + 1e-16 / 1e-5


def test_dropped_dimensions_contribute_nothing_even_if_not_finite() -> None:
    model = tiny("bert")
    sites = find_inner_sites(model)[:3]
    masks = {s.name: torch.ones(s.units) for s in sites}
    for site in sites:
        masks[site.name][5] = 0
        for gate in site.gates:
            model.get_submodule(gate).bias.data[5] = torch.inf
    with masked(model, masks, sites):
        assert model(**dummy_inputs(model)).logits.isfinite().all()


def test_filters_are_masked_after_an_activation_that_makes_something_of_nothing() -> None:
    model = tiny("bert", hidden_act="sigmoid")
    sites = find_inner_sites(model, kinds=("ffn",))
    assert not any(s.gates for s in sites)
    assert sites == [s for s in find_sites(model) if s.kind == "ffn"]
    assert all(s.gates for s in find_inner_sites(tiny("bert"), kinds=("ffn",)))


def test_pruned_models_have_inner_sites_for_what_is_left() -> None:
    model = tiny("bert")
    sites = find_inner_sites(model)
    masks = {s.name: torch.ones(s.units) for s in sites}
    masks[sites[0].name][[0, 1, 9]] = 0
    masks[sites[1].name][:8] = 0  # the first head, query-key dimensions and all
    masks[sites[3].name][:] = 0
    small = compact(model, masks, sites)
    left = find_inner_sites(small)
    assert [(s.layer, s.kind, s.units) for s in left] == [
        (0, "qk", 23),
        (0, "v", 24),
        (0, "ffn", 37),
        (1, "v", 32),
        (1, "ffn", 37),
        (2, "qk", 32),
        (2, "v", 32),
        (2, "ffn", 37),
    ]
    assert all_head_widths(small)[0].qk == (7, 8, 8)
    heads = {s.layer: s for s in find_sites(small) if s.kind == "attention"}
    assert (heads[0].units, heads[0].group) == (1, 24)  # uneven: all heads are one unit
    assert (heads[1].units, heads[1].group) == (4, 8)
    with pytest.raises(UnsupportedModelError, match="differ in width"):
        find_inner_sites(small, shared=True)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gpt2", "'gpt2' has no plain Linear"),
        ("llama", "'llama' rotate pairs"),
        ("qwen2", "'qwen2' rotate pairs"),
    ],
)
def test_dimensions_that_belong_together_are_refused(family: str, message: str) -> None:
    model = tiny(family)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        find_inner_sites(model)
    assert "\n" not in str(caught.value)
    assert len(find_inner_sites(model, kinds=("ffn",))) == 3


def test_shared_values_are_refused_and_those_of_one_head_are_not() -> None:
    with pytest.raises(UnsupportedModelError, match="share keys and values"):
        find_inner_sites(tiny("llama"), kinds=("v",))
    sites = find_inner_sites(tiny("llama", num_key_value_heads=4), kinds=("v", "ffn"))
    assert [s.kind for s in sites] == ["v", "ffn"] * 3


def test_unknown_kinds_and_foreign_masks_are_refused() -> None:
    model = tiny("bert")
    with pytest.raises(FastpruneError, match="no inner sites of kind 'heads'"):
        find_inner_sites(model, kinds=("heads",))  # type: ignore[arg-type]
    sites = find_inner_sites(model)
    with (
        pytest.raises(FastpruneError, match="pass the sites that the masks are of"),
        masked(model, {sites[0].name: torch.ones(32)}),
    ):
        pass
    with pytest.raises(FastpruneError, match=r"\(8,\).*32 units"):
        compact(model, {sites[1].name: torch.ones(8)}, sites)
