"""Physical removal equals masking; everything else about the model stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import DECODERS, FAMILIES, random_masks, tiny

from fastprune.compaction import compact
from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.structure import find_sites, layer_units, masked
from fastprune.structure.inputs import dummy_inputs

ROUNDING = 256 * torch.finfo(torch.float64).eps  # about 100 terms, through six sublayers


def outputs(model: Any, **extra: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.base_model(**dummy_inputs(model), **extra).last_hidden_state


def emptied(model: Any, *indices: int) -> dict[str, torch.Tensor]:
    """Random masks that take every unit from the sites with the given indices."""
    sites = find_sites(model)
    masks = random_masks(sites)
    for index in indices:
        masks[sites[index].name][:] = 0
    return masks


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("empty", [(0,), (3,), (0, 3, 5), tuple(range(6))], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_without_units(family: str, empty: tuple[int, ...], attention: str) -> None:
    model = tiny(family, attention=attention)
    masks = emptied(model, *empty)
    with masked(model, masks):
        expected = outputs(model)
    small = compact(model, masks)
    torch.testing.assert_close(
        outputs(small), expected, rtol=0, atol=ROUNDING * float(expected.abs().max())
    )
    kept = {s.name: s.units for s in find_sites(small)}
    assert kept == {name: int(m.sum()) for name, m in masks.items() if m.any()}


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_attention_maps_can_still_be_asked_for(family: str) -> None:
    model = tiny(family, attention="eager")
    masks = emptied(model, 0)
    with masked(model, masks):
        expected = outputs(model)
    found = outputs(compact(model, masks), output_attentions=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_original_is_untouched(family: str) -> None:
    model = tiny(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, text = model.config.to_dict(), repr(model)
    small = compact(model, emptied(model, 0, 3))
    for parameter in small.parameters():
        parameter.data.zero_()
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert repr(model) == text


def test_dtype_grad_and_training_flags_carry_over() -> None:
    model = tiny("bert").bfloat16().train()
    model.bert.encoder.layer[0].attention.self.query.weight.requires_grad_(False)
    model.bert.encoder.layer[1].attention.output.dense.eval()
    small = compact(model, emptied(model, 2))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {
        "bert.encoder.layer.0.attention.self.query.weight"
    }
    flags = {name: module.training for name, module in model.named_modules()}
    assert all(flags[n] == m.training for n, m in small.named_modules() if n in flags)
    assert all(p.is_contiguous() for p in small.parameters())


def test_tied_embeddings_stay_tied_and_separate_from_the_original() -> None:
    model = tiny("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    small = compact(model, random_masks(find_sites(model)))
    assert small.lm_head.weight is small.transformer.wte.weight
    assert small.lm_head.weight is not model.lm_head.weight


def test_shared_projections_are_refused() -> None:
    model = tiny("bert")
    layers = model.bert.encoder.layer
    layers[2].output.dense.weight = layers[0].output.dense.weight
    masks = random_masks(find_sites(model)[1:2])
    with pytest.raises(UnsupportedModelError, match="shared with another module"):
        compact(model, masks)


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "qwen2"])
def test_pruning_twice_is_pruning_once(family: str) -> None:
    model = tiny(family)
    first = emptied(model, 1)
    once = compact(model, first)
    second = random_masks(find_sites(once), seed=1, keep=0.5)
    second[find_sites(once)[-2].name][:] = 0
    both = dict(first)
    for name, mask in second.items():
        both[name] = first[name].clone()
        both[name][first[name].bool()] = mask
    assert torch.equal(outputs(compact(once, second)), outputs(compact(model, both)))


def test_masks_only_choose() -> None:
    model = tiny("bert")
    masks = random_masks(find_sites(model))
    scaled = {name: mask * -0.3 for name, mask in masks.items()}
    booleans = {name: mask.bool() for name, mask in masks.items()}
    expected = outputs(compact(model, masks))
    assert torch.equal(outputs(compact(model, scaled)), expected)
    assert torch.equal(outputs(compact(model, booleans)), expected)
    assert torch.equal(outputs(compact(model, {})), outputs(model))
    with pytest.raises(FastpruneError, match="no site"):
        compact(model, {"elsewhere": torch.ones(4)})


@pytest.mark.parametrize("empty", [(), (0,), (2,)], ids=str)
@pytest.mark.parametrize("family", DECODERS)
def test_generation_with_every_kind_of_cache(family: str, empty: tuple[int, ...]) -> None:
    model = tiny(family)
    masks = emptied(model, *empty)
    ids = torch.arange(2, 12).view(2, 5)
    padding = torch.ones_like(ids)
    padding[1, :2] = 0
    common = {"attention_mask": padding, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for extra in ({}, {"use_cache": False}, {"num_beams": 3}, {"cache_implementation": "static"}):
        with masked(model, masks):
            expected = model.generate(ids, **common, **extra)
        # Compacting after each generate(): what the original cached must not come along.
        assert torch.equal(compact(model, masks).generate(ids, **common, **extra), expected)


def test_units_are_described_in_the_config() -> None:
    model = tiny("bert")
    small = compact(model, emptied(model, 0))
    assert small.config.quantization_config.to_dict()["units"] == layer_units(small)
    assert not hasattr(compact(model, {}).config, "quantization_config")
