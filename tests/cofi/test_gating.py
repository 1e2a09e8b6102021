"""Gates on a live model are what their definition says, and what folding makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from gated_models import arbitrary, gates_of, tiny_float
from kept_norms import renormalised
from tiny_models import FAMILIES, WITH_STREAM, tiny
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from fastprune import load_pretrained, save_pretrained
from fastprune.cofi.folding import compact_gated
from fastprune.cofi.gating import Gating
from fastprune.cofi.values import GateValues
from fastprune.errors import UnsupportedModelError
from fastprune.structure import find_sites, masked
from fastprune.structure.inputs import dummy_inputs
from fastprune.structure.stream import residual_stream

# LLaMA's norm rounds to float32 on its way.
ROUNDING = dict.fromkeys(("llama", "mistral", "qwen2"), 1e-06)
CASES = [
    *((family, False) for family in FAMILIES),
    *((family, True) for family in WITH_STREAM),
]


def outputs(model: Any) -> Tensor:
    return model(**dummy_inputs(model))[0]


@contextmanager
def multiplied(model: Any, values: GateValues) -> Iterator[None]:
    """Everything computed, then multiplied, as the paper puts it: hooks and nothing else."""
    sites = find_sites(model)

    def by(factor: Tensor) -> Any:
        return lambda module, args, output: output * factor

    with ExitStack() as stack:

        def multiply(path: str, factor: Tensor) -> None:
            hook = model.get_submodule(path).register_forward_hook(by(factor))
            stack.callback(hook.remove)

        stack.enter_context(masked(model, values.units, sites))
        for name, value in values.sublayers.items():
            multiply(name, value)
        if values.hidden is not None:
            stream, z = residual_stream(model), values.hidden
            for path in (*stream.entrances, *stream.writers):
                multiply(path, z)
            for path in stream.norms:
                hook = model.get_submodule(path).register_forward_hook(renormalised(z))
                stack.callback(hook.remove)
        yield


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "hidden"), CASES)
def test_gated_is_multiplied_is_compacted(family: str, hidden: bool, attention: str) -> None:
    model = tiny(family, attention=attention)
    values, sites = arbitrary(model, hidden=hidden), find_sites(model)
    with torch.no_grad():
        with multiplied(model, values):
            expected = outputs(model)
        with Gating(model, sites, hidden=hidden).on(values):
            gated = outputs(model)
        small = compact_gated(model, sites, values)
        folded = outputs(small)
    tolerance = ROUNDING.get(family, 1e-12) * float(expected.abs().max())
    torch.testing.assert_close(gated, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(folded, expected, rtol=0, atol=tolerance)
    numbers = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
    assert numbers[1] < 0.75 * numbers[0]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_float32_agrees_to_a_millionth(family: str) -> None:
    model = tiny_float(family)
    values, sites = arbitrary(model, hidden=True), find_sites(model)
    values = GateValues(
        {name: z.float() for name, z in values.units.items()},
        {name: z.float() for name, z in values.sublayers.items()},
        values.hidden.float(),
    )
    with torch.no_grad():
        with Gating(model, sites, hidden=True).on(values):
            gated = outputs(model)
        folded = outputs(compact_gated(model, sites, values))
    torch.testing.assert_close(folded, gated, rtol=0, atol=1e-6 * float(gated.abs().max()))


@pytest.mark.parametrize("family", WITH_STREAM)
def test_gradients_are_those_of_the_multiplied_model(family: str) -> None:
    """Of weights and of every gate that is not closed; closed ones have none."""
    model = tiny(family)
    sites, found = find_sites(model), []
    for gated in (True, False):
        values = arbitrary(model, hidden=True)
        leaves = [*values.units.values(), *values.sublayers.values(), values.hidden]
        for leaf in leaves:
            leaf.requires_grad_()
        context = (
            Gating(model, sites, hidden=True).on(values) if gated else multiplied(model, values)
        )
        with context:
            loss = outputs(model).square().mean()
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(loss, [*parameters, *leaves], allow_unused=True)
        zeros = [torch.zeros_like(x) for x in (*parameters, *leaves)]
        filled = [zero if g is None else g for zero, g in zip(zeros, gradients, strict=True)]
        few = len(parameters)
        closed = [g * (z != 0) for g, z in zip(filled[few:], leaves, strict=True)]
        found.append([*filled[:few], *closed])
    rough = family in ROUNDING
    for ours, theirs in zip(*found, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=(1e-5 if rough else 1e-11) * max(scale, 1e-3)
        )


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt"])
def test_what_is_closed_is_not_computed(family: str) -> None:
    model = tiny(family)
    sites, values = find_sites(model), arbitrary(model, hidden=False)
    widths = {}

    def note(path: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            widths[path] = args[0].shape[-1]

        return hook

    hooks = [model.get_submodule(s.name).register_forward_pre_hook(note(s.name)) for s in sites]
    with Gating(model, sites, hidden=False).on(values):
        outputs(model)
    for hook in hooks:
        hook.remove()
    for site in sites:
        left = int(values.kept(sites)[site.name].sum())
        assert widths[site.name] == max(1, left) * site.group


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama"])
def test_nothing_is_left_behind(family: str) -> None:
    model = tiny(family)
    before = copy.deepcopy(model)
    attributes = {name: dict(vars(m)) for name, m in model.named_modules()}
    expected = outputs(model)
    gating, values = Gating(model, find_sites(model), hidden=True), arbitrary(model, hidden=True)

    def interrupted() -> None:
        with gating.on(values):
            outputs(model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(outputs(model), expected)
    for name, module in model.named_modules():
        assert vars(module).keys() == attributes[name].keys()
        for count in ("num_heads", "num_attention_heads", "all_head_size", "dim", "embed_dim"):
            assert getattr(module, count, None) == attributes[name].get(
                count, getattr(module, count, None)
            )
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_heads_that_share_a_weight_and_read_no_norm_cannot_have_hidden_gates() -> None:
    """The embeddings' weight would take gates up, and hand them on to the head a second time."""
    model = tiny("opt", _remove_final_layer_norm=True)
    assert residual_stream(model).tied
    assert gates_of(model) == ("sublayers", "heads", "filters")
    with pytest.raises(UnsupportedModelError, match="untie"):
        Gating(model, find_sites(model), hidden=True)
    untied = tiny("opt", _remove_final_layer_norm=True, tie_word_embeddings=False)
    values, sites = arbitrary(untied, hidden=True), find_sites(untied)
    with torch.no_grad(), Gating(untied, sites, hidden=True).on(values):
        gated = outputs(untied)
    torch.testing.assert_close(outputs(compact_gated(untied, sites, values)), gated)


@pytest.mark.parametrize("shared", ["module", "weight"])
def test_norms_that_layers_share_take_up_gates_once(shared: str) -> None:
    model = tiny("bert")
    first, second = (model.bert.encoder.layer[i].output for i in (0, 1))
    if shared == "module":
        second.LayerNorm = first.LayerNorm
    else:
        second.LayerNorm.weight = first.LayerNorm.weight
    values, sites = arbitrary(model, hidden=True), find_sites(model)
    with torch.no_grad():
        with Gating(model, sites, hidden=True).on(values):
            gated = outputs(model)
        torch.testing.assert_close(outputs(compact_gated(model, sites, values)), gated)


def test_norms_without_weights_cannot_take_up_gates() -> None:
    model = tiny("opt", layer_norm_elementwise_affine=False)
    assert gates_of(model) == ("sublayers", "heads", "filters")


def test_open_gates_change_nothing() -> None:
    model = tiny("bert")
    sites = find_sites(model)
    values = GateValues(
        {site.name: torch.ones(site.units).double() for site in sites},
        {site.name: torch.ones(()).double() for site in sites},
        torch.ones(32).double(),
    )
    expected = outputs(model)
    with Gating(model, sites, hidden=True).on(values):
        torch.testing.assert_close(outputs(model), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(outputs(compact_gated(model, sites, values)), expected)


def test_a_pruned_model_can_be_gated_and_pruned_on(tmp_path: Any) -> None:
    """One without attention in layer 0, without an FFN in another and with fewer dimensions."""
    model = tiny("bert")
    small = compact_gated(model, find_sites(model), arbitrary(model, hidden=True))
    sites = find_sites(small)
    assert len(sites) == 4
    generator = torch.Generator().manual_seed(5)
    width = small.bert.encoder.layer[0].output.LayerNorm.normalized_shape[0]
    hidden = torch.rand(width, generator=generator).double()
    hidden[3] = 0
    values = GateValues({sites[0].name: torch.rand(sites[0].units).double()}, {}, hidden)
    with torch.no_grad():
        with Gating(small, sites, hidden=True).on(values):
            gated = outputs(small)
        smaller = compact_gated(small, sites, values)
    torch.testing.assert_close(outputs(smaller), gated)
    save_pretrained(smaller, tmp_path / "m")
    assert torch.equal(outputs(load_pretrained(tmp_path / "m")), outputs(smaller))


def test_folded_models_are_ordinary_ones() -> None:
    model = tiny("gpt2")
    small = compact_gated(model, find_sites(model), arbitrary(model, hidden=True))
    assert small.lm_head.weight is small.transformer.wte.weight
    assert type(small.transformer.h[2].mlp.c_proj) is Conv1D
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())
