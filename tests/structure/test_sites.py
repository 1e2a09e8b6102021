"""Sites: found in order, priced right, attached to the residual stream they claim."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny
from torch import nn
from transformers import BartConfig, BartModel

from fastprune.compaction import compact
from fastprune.errors import UnsupportedModelError
from fastprune.structure import find_sites, layer_units
from fastprune.structure.inputs import dummy_inputs

ROUNDING = 64 * torch.finfo(torch.float64).eps
GROUPED = ("llama", "mistral", "qwen2")


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_come_in_forward_order_with_live_widths(family: str) -> None:
    model = tiny(family)
    sites = find_sites(model)
    heads, group = (2, 16) if family in GROUPED else (4, 8)
    assert [(s.layer, s.kind) for s in sites] == [
        (layer, kind) for layer in range(3) for kind in ("attention", "ffn")
    ]
    assert [(s.units, s.group) for s in sites] == [(heads, group), (37, 1)] * 3
    assert all(s.outputs == 32 for s in sites)
    called: list[str] = []
    for site in sites:
        model.get_submodule(site.name).register_forward_hook(
            lambda *_, name=site.name: called.append(name)
        )
    model.base_model(**dummy_inputs(model))
    assert called == [s.name for s in sites]


@pytest.mark.parametrize("family", FAMILIES)
def test_cost_of_a_unit_is_what_compaction_removes(family: str) -> None:
    model = tiny(family)
    for site in find_sites(model)[:2]:
        mask = torch.ones(site.units)
        mask[1] = 0
        small = compact(model, {site.name: mask})
        removed = {
            dimensions: sum(p.numel() for p in model.parameters() if p.dim() == dimensions)
            - sum(p.numel() for p in small.parameters() if p.dim() == dimensions)
            for dimensions in (1, 2)
        }
        assert removed == {1: site.biases_per_unit, 2: site.weights_per_unit}


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_plus_output_is_what_flows_on(family: str) -> None:
    """The next site's residual is this one's plus its output, normalised in post-norm layers."""
    model = tiny(family)
    sites = find_sites(model)
    seen: dict[str, torch.Tensor] = {}
    norms: list[torch.Tensor] = []
    for site in sites:
        model.get_submodule(site.residual).register_forward_pre_hook(
            lambda _, args, key=f"{site.name}/residual": seen.__setitem__(key, args[0])
        )
        model.get_submodule(site.name).register_forward_hook(
            lambda _, args, out, key=f"{site.name}/output": seen.__setitem__(key, out)
        )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) or "RMSNorm" in type(module).__name__:
            module.register_forward_pre_hook(lambda _, args: norms.append(args[0]))
    model.base_model(**dummy_inputs(model))
    for site in sites:
        flowing = seen[f"{site.name}/residual"] + seen[f"{site.name}/output"].view_as(
            seen[f"{site.name}/residual"]
        )
        # Whatever comes next, pre- or post-norm, is a norm over exactly this sum.
        errors = [
            (flowing.reshape(-1, 32) - x.reshape(-1, 32)).abs().max()
            for x in norms
            if x.numel() == flowing.numel()
        ]
        assert min(errors) <= ROUNDING * flowing.abs().max()


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "llama"])
def test_pruned_models_have_sites_for_what_is_left(family: str) -> None:
    model = tiny(family)
    sites = find_sites(model)
    masks = random_masks(sites)
    masks[sites[0].name][:] = 0
    masks[sites[3].name][:] = 0
    small = compact(model, masks)
    left = find_sites(small)
    assert [s.name for s in left] == [s.name for i, s in enumerate(sites) if i not in (0, 3)]
    assert all(s.units == int(masks[s.name].sum()) for s in left)
    units = layer_units(small)
    assert units["attention"][0] == 0
    assert units["ffn"][1] == 0


def test_unknown_type_names_itself_and_the_cure() -> None:
    config = BartConfig(
        vocab_size=20,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
    )
    with pytest.raises(UnsupportedModelError, match=r"'bart'.*structure\.declare"):
        find_sites(BartModel(config))
    with pytest.raises(UnsupportedModelError, match="Linear"):
        find_sites(nn.Linear(2, 2))


def test_foreign_projections_are_refused() -> None:
    model = tiny("bert")
    model.bert.encoder.layer[1].output.dense = nn.Sequential(nn.Linear(37, 32))
    with pytest.raises(UnsupportedModelError, match=r"layer\.1\.output\.dense is a Sequential"):
        find_sites(model)


def test_unexpected_layout_is_refused() -> None:
    model = tiny("bert")
    del model.bert.encoder.layer[2].intermediate
    with pytest.raises(UnsupportedModelError, match="no declaration of 'bert' fits"):
        find_sites(model)
