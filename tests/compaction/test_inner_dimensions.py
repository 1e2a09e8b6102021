"""Removing dimensions inside heads equals masking them, and a dense model with zeros for them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import random_masks, tiny

from fastprune.budget import price_sites
from fastprune.compaction import compact, prove, save_pretrained
from fastprune.errors import CheckpointError
from fastprune.structure import Site, all_head_widths, find_inner_sites, find_sites, masked
from fastprune.structure.declaration import anatomy
from fastprune.structure.inputs import dummy_inputs
from fastprune.structure.projection import as_projection, weight_view

FAMILIES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "distilbert",
    "vit",
    "deit",
    "opt",
    "opt-norm-last",
)
ROUNDING = 256 * torch.finfo(torch.float64).eps  # about 100 terms, through six sublayers


def outputs(model: Any, **extra: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.base_model(**dummy_inputs(model), **extra).last_hidden_state


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    atol = ROUNDING * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def uneven(sites: list[Site], keep: float = 0.6) -> dict[str, torch.Tensor]:
    """Random masks; layer 0 has a head without query-key dimensions and one without values."""
    masks = random_masks(sites, keep=keep)
    masks[sites[0].name].view(-1, 8)[1:2] = 0
    masks[sites[1].name].view(-1, 8)[2:3] = 0
    return masks


def zeroed(model: Any, sites: list[Site], masks: dict[str, torch.Tensor]) -> Any:
    """The dense model, no hook and no surgery, with zero rows for all that is masked."""
    model = copy.deepcopy(model)
    for site in sites:
        rows = site.spread(masks[site.name]).double()
        for gate in site.gates:
            projection = as_projection(model.get_submodule(gate), gate)
            weight_view(projection).mul_(rows[:, None])
            projection.bias.data.mul_(rows)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_heads(family: str, attention: str) -> None:
    model = tiny(family, attention=attention)
    sites = find_inner_sites(model)
    masks = uneven(sites)
    with masked(model, masks, sites):
        expected = outputs(model)
    small = compact(model, masks, sites)
    assert_same(outputs(small), expected)
    assert_same(outputs(zeroed(model, sites, masks)), expected)
    first = all_head_widths(small)[0]
    assert len(first.v) == 3
    assert first.qk[1] == 0
    assert not first.even
    assert all_head_widths(model)[0].v == (8,) * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_dimensions_stay_even(family: str) -> None:
    model = tiny(family)
    sites = find_inner_sites(model, shared=True)
    masks = random_masks(sites)
    with masked(model, masks, sites):
        expected = outputs(model)
    small = compact(model, masks, sites)
    assert_same(outputs(small), expected)
    assert all(w.even and w.qk == (5,) * 4 and w.v == (5,) * 4 for w in all_head_widths(small))
    assert [(s.units, s.group) for s in find_sites(small)] == [(4, 5), (22, 1)] * 3


def test_equally_narrow_heads_need_no_padding() -> None:
    model = tiny("bert")
    sites = find_inner_sites(model, kinds=("qk", "v"), shared=True)
    small = compact(model, random_masks(sites), sites)
    attention = small.bert.encoder.layer[0].attention
    assert type(attention.self.query) is torch.nn.Linear
    assert attention.self.attention_head_size == 5
    assert attention.self.all_head_size == 20


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_query_key_dimensions_attention_is_uniform(family: str, attention: str) -> None:
    model = tiny(family, attention=attention)
    sites = find_inner_sites(model)
    masks = {sites[3].name: torch.zeros(32)}
    with masked(model, masks, sites):
        expected = outputs(model)
    small = compact(model, masks, sites)
    assert_same(outputs(small), expected)
    assert_same(outputs(zeroed(model, sites[3:4], masks)), expected)
    assert all_head_widths(small)[1].qk == (0,) * 4
    removed = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in small.parameters()
    )
    assert removed == 32 * (2 * 32 + 2)


def test_uniform_attention_spares_padding() -> None:
    model = tiny("bert", attention="eager")
    sites = find_inner_sites(model)
    small = compact(model, {sites[0].name: torch.zeros(32)}, sites)
    inputs = dummy_inputs(model)
    maps = small(**inputs, output_attentions=True).attentions[0]
    real = inputs["attention_mask"][:, None, None, :].double()
    torch.testing.assert_close(
        maps, (real / real.sum(-1, keepdim=True)).expand_as(maps), rtol=0, atol=ROUNDING
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_without_value_dimensions_attention_is_gone(family: str) -> None:
    model = tiny(family)
    sites = find_inner_sites(model)
    by_heads = {find_sites(model)[2].name: torch.zeros(4)}
    small = compact(model, {sites[4].name: torch.zeros(32)}, sites)
    assert torch.equal(outputs(small), outputs(compact(model, by_heads)))
    assert [s.kind for s in find_sites(small)] == ["attention", "ffn", "ffn", "attention", "ffn"]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_keep_their_scale(family: str) -> None:
    model = tiny(family)
    sites = find_inner_sites(model, shared=True)
    small = compact(model, random_masks(sites), sites)
    attention = anatomy(small).declaration.attention
    for block in anatomy(small).blocks:
        module = small.get_submodule(f"{block}.{attention.module}")
        # One that does not hold the scale takes it from the width, which must not change.
        scaling = getattr(module, "scaling", getattr(module, attention.head_width) ** -0.5)
        assert scaling == 8**-0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_parameters_are_what_prices_say(family: str) -> None:
    model = tiny(family)
    sites = find_inner_sites(model)
    masks = random_masks(sites)
    small = compact(model, masks, sites)
    assert all(len(w.v) == 4 for w in all_head_widths(small))  # or whole heads would go as well
    removed = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in small.parameters()
    )
    for kind in ("params", "macs"):
        prices = price_sites(sites, kind, 10)
        left = prices.of_counts([int(masks[s.name].sum()) for s in sites])
        assert left == price_sites(find_sites(small), kind, 10).dense
        assert left == price_sites(find_inner_sites(small), kind, 10).dense
        assert kind == "macs" or removed == prices.dense - left


def test_masks_only_choose_and_the_original_is_untouched() -> None:
    model = tiny("bert").bfloat16().train()
    model.bert.encoder.layer[0].attention.self.query.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    sites = find_inner_sites(model)
    masks = uneven(sites)
    small = compact(model, masks, sites)
    scaled = compact(model, {name: -0.3 * mask for name, mask in masks.items()}, sites)
    for a, b in zip(small.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == torch.bfloat16
        a.data.zero_()
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {
        "bert.encoder.layer.0.attention.self.query.weight"
    }
    assert all(module.training for module in small.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config


@pytest.mark.parametrize("family", ["bert", "vit", "opt"])
def test_pruning_twice_is_pruning_once(family: str) -> None:
    model = tiny(family)
    sites = find_inner_sites(model)
    first = uneven(sites, keep=0.8)
    once = compact(model, first, sites)
    again = find_inner_sites(once)
    second = random_masks(again, seed=1, keep=0.5)
    twice = compact(once, second, again)
    with masked(once, second, again):
        assert_same(outputs(twice), outputs(once))
    both = dict(first)
    for site, mask in second.items():
        # What the head without values still had of queries and keys went with it.
        alive = first[site].clone()
        if site == sites[0].name:
            alive.view(-1, 8)[2] = 0
        both[site] = torch.zeros_like(alive)
        both[site][alive.bool()] = mask
    for module, other in zip(
        twice.parameters(), compact(model, both, sites).parameters(), strict=True
    ):
        assert torch.equal(module, other)


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit", "opt"])
def test_heads_and_filters_of_narrowed_models(family: str) -> None:
    """Even heads one by one; uneven ones of a layer all together."""
    model = tiny(family)
    shared = find_inner_sites(model, shared=True)
    masks = random_masks(shared)
    masks[shared[1].name] = torch.arange(8) < 3  # fewer value than query-key dimensions
    even = compact(model, masks, shared)
    sites = find_sites(even)
    assert [s.group for s in sites if s.kind == "attention"] == [3, 5, 5]
    masks = random_masks(sites)
    with masked(even, masks):
        expected = outputs(even)
    assert_same(outputs(compact(even, masks)), expected)
    inner = find_inner_sites(model)
    ragged = compact(model, uneven(inner), inner)
    sites = find_sites(ragged)
    assert sites[0].units == 1
    masks = {sites[0].name: torch.zeros(1), sites[1].name: torch.arange(sites[1].units) < 5}
    with masked(ragged, masks):
        expected = outputs(ragged)
    small = compact(ragged, masks)
    assert_same(outputs(small), expected)
    assert all_head_widths(small)[0].v == ()


def test_heads_that_become_equally_wide_lose_their_padding() -> None:
    model = tiny("bert")
    sites = find_inner_sites(model, kinds=("v",))[:1]
    uneven = compact(model, {sites[0].name: torch.arange(32) < 29}, sites)
    assert all_head_widths(uneven)[0].v == (8, 8, 8, 5)
    sites = find_inner_sites(uneven, kinds=("v",))[:1]
    even = compact(uneven, {sites[0].name: torch.arange(29) < 24}, sites)
    assert all_head_widths(even)[0].v == (8,) * 3
    layer = even.bert.encoder.layer[0].attention
    assert type(layer.self.value) is type(layer.output.dense) is torch.nn.Linear
    heads = {find_sites(model)[0].name: torch.tensor([1, 1, 1, 0])}
    assert torch.equal(outputs(even), outputs(compact(model, heads)))


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_what_is_left_gets_the_gradients_it_has_under_masks(family: str) -> None:
    model = tiny(family)
    sites = find_inner_sites(model)
    masks = uneven(sites)
    small = compact(model, masks, sites)
    with masked(model, masks, sites):
        model(**dummy_inputs(model)).logits.square().mean().backward()
    small(**dummy_inputs(model)).logits.square().mean().backward()
    kept = masks[sites[1].name].bool()
    value = sites[1].gates[0]
    got, all_rows = small.get_submodule(value).weight.grad, model.get_submodule(value).weight.grad
    # Twice the sublayers of a forward pass.
    atol = 2 * ROUNDING * float(all_rows.abs().max())
    torch.testing.assert_close(got, all_rows[kept], rtol=0, atol=atol)
    output = sites[1].name
    got, columns = small.get_submodule(output).weight.grad, model.get_submodule(output).weight.grad
    atol = 2 * ROUNDING * float(columns.abs().max())
    torch.testing.assert_close(got, columns[:, kept], rtol=0, atol=atol)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_attention_maps_can_still_be_asked_for(family: str) -> None:
    model = tiny(family, attention="eager")
    sites = find_inner_sites(model)
    masks = uneven(sites)
    with masked(model, masks, sites), torch.no_grad():
        expected = model(**dummy_inputs(model), output_attentions=True).attentions
    with torch.no_grad():
        found = compact(model, masks, sites)(**dummy_inputs(model), output_attentions=True)
    torch.testing.assert_close(found.attentions[0], expected[0][:, [0, 1, 3]])
    torch.testing.assert_close(found.attentions[2], expected[2])


def test_values_of_rotary_models() -> None:
    model = tiny("llama", num_key_value_heads=4)
    sites = find_inner_sites(model, kinds=("v", "ffn"))
    masks = random_masks(sites)
    masks[sites[0].name].view(-1, 8)[2:3] = 0
    with masked(model, masks, sites):
        expected = outputs(model)
    small = compact(model, masks, sites)
    assert_same(outputs(small), expected)
    assert all_head_widths(small)[0].qk == (8,) * 3


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_generation(family: str) -> None:
    model = tiny(family, **({"num_key_value_heads": 4} if family == "llama" else {}))
    kinds = ("v",) if family == "llama" else ("qk", "v")
    sites = find_inner_sites(model, kinds=kinds)
    masks = random_masks(sites)
    ids = torch.arange(2, 12).view(2, 5)
    common = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for extra in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        with masked(model, masks, sites):
            expected = model.generate(ids, **common, **extra)
        small = compact(model, masks, sites)
        assert torch.equal(small.generate(ids, **common, **extra), expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_inner_sites_are_proven(family: str, shared: bool) -> None:
    model = tiny(family)
    report = prove(model, sites=find_inner_sites(model, shared=shared))
    assert [proof.site.kind for proof in report.sites] == ["qk", "v", "ffn"] * 3
    assert report.holds, report.first_failure


def test_a_wrong_scale_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof notices what the code released with SPP does: scaling by the width that is left."""
    model = tiny("bert")
    original = compact

    def rescaled(model: Any, *args: Any) -> Any:
        small = original(model, *args)
        for layer in small.bert.encoder.layer:
            layer.attention.self.scaling = layer.attention.self.attention_head_size**-0.5
        return small

    monkeypatch.setattr("fastprune.compaction.proof.compact", rescaled)
    failure = prove(model, sites=find_inner_sites(model, shared=True)).first_failure
    assert failure is not None
    assert failure.site.kind == "qk"


def test_stock_configs_cannot_express_them(tmp_path: Any) -> None:
    model = tiny("vit")
    sites = find_inner_sites(model, shared=True)
    small = compact(model, random_masks(sites), sites)
    with pytest.raises(CheckpointError, match="uniform=False"):
        save_pretrained(small, tmp_path / "model", uniform=True)
