"""Removing hidden dimensions equals norms over those that stay, and survives a reload."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from kept_norms import renormalised
from tiny_models import WITH_STREAM, random_masks, tiny
from torch import Tensor

from fastprune import load_pretrained, save_pretrained
from fastprune.budget import price_sites
from fastprune.compaction import compact
from fastprune.errors import CheckpointError, FastpruneError, UnsupportedModelError
from fastprune.structure import find_sites, layer_units, masked
from fastprune.structure.inputs import dummy_inputs
from fastprune.structure.stream import residual_stream, stream_width

# LLaMA's norm rounds to float32 on its way.
ROUNDING = dict.fromkeys(("llama", "mistral", "qwen2"), 2e-06)


def hidden_mask(width: int = 32, gone: int = 9, seed: int = 4) -> Tensor:
    mask = torch.ones(width)
    mask[torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:gone]] = 0
    return mask


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**dummy_inputs(model))[0]


@contextmanager
def without_hidden(model: Any, mask: Tensor) -> Iterator[None]:
    """Plain hooks: zeros for what is gone, and norms over the columns that stay."""
    stream = residual_stream(model)

    def zero(module: Any, args: Any, output: Tensor) -> Tensor:
        return output * mask

    hooks: list[tuple[str, Callable[..., Tensor]]] = [
        *((path, zero) for path in (*stream.entrances, *stream.writers)),
        *((path, renormalised(mask.double())) for path in stream.norms),
    ]
    with ExitStack() as stack:
        for path, hook in hooks:
            stack.callback(model.get_submodule(path).register_forward_hook(hook).remove)
        yield


@pytest.mark.parametrize("units", ["units", "all units"])
@pytest.mark.parametrize("family", WITH_STREAM)
def test_removing_equals_leaving_out(family: str, units: str) -> None:
    model, mask = tiny(family), hidden_mask()
    masks = random_masks(find_sites(model)) if units == "units" else {}
    if masks:
        masks[find_sites(model)[1].name][:] = 0
        masks[find_sites(model)[2].name][:] = 0
    with without_hidden(model, mask), masked(model, masks):
        expected = outputs(model)
    small = compact(model, masks, hidden=mask)
    tolerance = ROUNDING.get(family, 1e-12) * float(expected.abs().max())
    torch.testing.assert_close(outputs(small), expected, rtol=0, atol=tolerance)
    assert stream_width(small) == 23
    assert stream_width(model) == 32
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", WITH_STREAM)
def test_reloads_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    small = compact(model, random_masks(find_sites(model)), hidden=hidden_mask())
    save_pretrained(small, tmp_path / "m")
    again = load_pretrained(tmp_path / "m")
    assert torch.equal(outputs(again), outputs(small))
    assert layer_units(again) == layer_units(small)
    described = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    assert described["hidden"] == 23
    # Saved again, and pruned on.
    further = compact(again, {}, hidden=hidden_mask(23, 3))
    save_pretrained(further, tmp_path / "n")
    assert torch.equal(outputs(load_pretrained(tmp_path / "n")), outputs(further))


def test_auto_classes_reload_it(tmp_path: Path) -> None:
    model = tiny("bert")
    small = compact(model, {}, hidden=hidden_mask())
    small.save_pretrained(tmp_path / "m")
    again = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    assert torch.equal(outputs(again), outputs(small))


def test_prices_follow() -> None:
    model = tiny("bert")
    small = compact(model, {}, hidden=hidden_mask(gone=8))
    for before, after in zip(find_sites(model), find_sites(small), strict=True):
        assert after.weights_per_unit * 32 == before.weights_per_unit * 24
        assert after.outputs == 24
    dense, left = (price_sites(find_sites(m), "params", 1).dense for m in (model, small))
    inner_biases = sum(site.units * site.biases_per_unit for site in find_sites(model))
    assert (left - inner_biases) * 32 == (dense - inner_biases) * 24


def test_norms_without_weights(tmp_path: Path) -> None:
    model, mask = tiny("opt", layer_norm_elementwise_affine=False), hidden_mask()
    masks = random_masks(find_sites(model))
    small = compact(model, masks, hidden=mask)
    assert stream_width(small) == 23
    save_pretrained(small, tmp_path / "m")
    assert torch.equal(outputs(load_pretrained(tmp_path / "m")), outputs(small))
    heads_alone = compact(model, masks)
    save_pretrained(heads_alone, tmp_path / "n")
    assert torch.equal(outputs(load_pretrained(tmp_path / "n")), outputs(heads_alone))


def test_tied_weights_stay_tied() -> None:
    model = tiny("gpt2")
    assert residual_stream(model).tied
    small = compact(model, {}, hidden=hidden_mask())
    assert small.lm_head.weight is small.transformer.wte.weight
    assert small.lm_head.weight.shape == (60, 23)


def test_weights_that_are_shared_with_others_are_refused() -> None:
    config = tiny("bert").config
    model = hf.BertForMaskedLM(config).eval()
    with pytest.raises(UnsupportedModelError, match="what it puts out"):
        compact(model, {}, hidden=hidden_mask())


@pytest.mark.parametrize(
    ("family", "says"), [("xlm-roberta", "what it puts out"), ("vit", "not declared")]
)
def test_models_whose_stream_stays(family: str, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        compact(tiny(family), {}, hidden=hidden_mask())


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(31), "one value per dimension"),
        (torch.zeros(32), "keep at least one"),
        (torch.full((32,), float("nan")), "not finite"),
    ],
)
def test_masks_that_do_not_fit(mask: Tensor, says: str) -> None:
    with pytest.raises(FastpruneError, match=says):
        compact(tiny("bert"), {}, hidden=mask)


@pytest.mark.parametrize("promised", [33, 0, "8", None])
def test_edited_configs_are_found_out(promised: Any, tmp_path: Path) -> None:
    save_pretrained(compact(tiny("bert"), {}, hidden=hidden_mask()), tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["hidden"] = promised
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        load_pretrained(tmp_path / "m")


def test_uniform_saving_is_refused(tmp_path: Path) -> None:
    small = compact(tiny("llama"), {}, hidden=hidden_mask())
    with pytest.raises(CheckpointError, match="does not rebuild"):
        save_pretrained(small, tmp_path / "m", uniform=True)
