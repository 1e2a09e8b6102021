"""Reloading: exact in another process, by both routes; loud when anything is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, random_masks, tiny

import fastprune
from fastprune.compaction import compact, load_pretrained, save_pretrained
from fastprune.errors import CheckpointError
from fastprune.structure import all_head_widths, find_inner_sites, find_sites, layer_units
from fastprune.structure.inputs import dummy_inputs

AUTO = {
    "SequenceClassification": "AutoModelForSequenceClassification",
    "QuestionAnswering": "AutoModelForQuestionAnswering",
    "ImageClassification": "AutoModelForImageClassification",
    "CausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def pruned(family: str, *empty: int, **overrides: Any) -> Any:
    model = tiny(family, **overrides)
    sites = find_sites(model)
    masks = random_masks(sites)
    for index in empty:
        masks[sites[index].name][:] = 0
    return compact(model, masks)


INNER = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "vit", "deit", "opt")


def narrowed(family: str, *, shared: bool = False, keep: float = 0.6) -> Any:
    """Heads that lost dimensions, in layer 1 all those of queries and keys, in layer 2 values."""
    model = tiny(family)
    sites = find_inner_sites(model, shared=shared)
    masks = random_masks(sites, keep=keep)
    masks[sites[3].name][:] = 0
    masks[sites[7].name][:] = 0
    return compact(model, masks, sites)


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**dummy_inputs(model))[0]


def auto_class(model: Any) -> str:
    name = type(model).__name__
    return next((auto for part, auto in AUTO.items() if part in name), "AutoModel")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(fastprune.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


RELOAD = """
import sys, torch, transformers
import fastprune
from fastprune.compaction import load_pretrained
for case in torch.load(sys.argv[1]):
    routes = {
        "auto": lambda d: getattr(transformers, case["auto"]).from_pretrained(d, dtype="auto"),
        "name": load_pretrained,
    }
    for route, load in routes.items():
        model = load(case["directory"])
        with torch.no_grad():
            found = model(**case["inputs"])[0]
        ok = torch.equal(found, case["outputs"]) and type(model).__name__ == case["class"]
        print(case["family"], route, "exact" if ok else (found - case["outputs"]).abs().max())
"""


def test_bit_exact_in_another_process(tmp_path: Path) -> None:
    models = {family: pruned(family, 0, 3) for family in FAMILIES}
    models |= {f"{family}-inner": narrowed(family) for family in INNER}
    models |= {f"{family}-shared": narrowed(family, shared=True) for family in INNER}
    cases = []
    for case, model in models.items():
        directory = tmp_path / case
        save_pretrained(model, directory)
        cases.append(
            {
                "family": case,
                "class": type(model).__name__,
                "auto": auto_class(model),
                "directory": str(directory),
                "inputs": dummy_inputs(model),
                "outputs": outputs(model),
            }
        )
    torch.save(cases, tmp_path / "cases.pt")
    result = python(RELOAD, str(tmp_path / "cases.pt"))
    expected = [f"{case} {route} exact" for case in models for route in ("auto", "name")]
    assert result.stdout.splitlines() == expected, result.stderr[-2000:]


STOCK = """
import sys, transformers
for directory in sys.argv[1:]:
    try:
        transformers.AutoModel.from_pretrained(directory)
        print("loaded")
    except RuntimeError:
        print("refused")
"""


def test_loud_without_fastprune(tmp_path: Path) -> None:
    """Also when only a whole sublayer is gone, where stock code could invent the missing keys."""
    model = tiny("bert")
    sites = find_sites(model)
    uneven = compact(model, random_masks(sites))
    save_pretrained(uneven, tmp_path / "uneven")
    for site in sites[:2]:
        save_pretrained(compact(model, {site.name: torch.zeros(site.units)}), tmp_path / site.kind)
    inner = find_inner_sites(model)
    uniform = compact(model, {inner[0].name: torch.zeros(32)}, inner)
    save_pretrained(uniform, tmp_path / "uniform-attention")
    result = python(
        STOCK, *(str(tmp_path / n) for n in ("uneven", "attention", "ffn", "uniform-attention"))
    )
    assert result.stdout.split() == ["refused"] * 4, result.stderr[-2000:]
    assert "fastprune" in result.stderr  # the unknown method is named


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_survive(tmp_path: Path, dtype: torch.dtype) -> None:
    model = pruned("bert", 2).to(dtype)
    save_pretrained(model, tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    assert again.dtype == dtype
    assert not again.training
    assert torch.equal(outputs(again), outputs(model))


def test_shards_and_ties_survive(tmp_path: Path) -> None:
    model = pruned("gpt2", 0)
    save_pretrained(model, tmp_path / "model", max_shard_size="10KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    again = load_pretrained(tmp_path / "model")
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_reloaded_models_are_ordinary(tmp_path: Path, family: str) -> None:
    """They cast, prune further and save, by us or by transformers, and reload again."""
    model = pruned(family, 3)
    save_pretrained(model, tmp_path / "first")
    again = load_pretrained(tmp_path / "first")
    assert not getattr(again, "is_quantized", False)
    again.float().double()
    further = compact(again, random_masks(find_sites(again), seed=2, keep=0.5))
    save_pretrained(further, tmp_path / "second")
    further.save_pretrained(tmp_path / "third")
    for name in ("second", "third"):
        third = load_pretrained(tmp_path / name)
        assert layer_units(third) == layer_units(further)
        assert torch.equal(outputs(third), outputs(further))


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
def test_narrowed_heads_prune_further_and_save_again(tmp_path: Path, family: str) -> None:
    save_pretrained(narrowed(family, keep=0.8), tmp_path / "first")
    again = load_pretrained(tmp_path / "first")
    again.float().double()
    sites = find_inner_sites(again)
    further = compact(again, random_masks(sites, seed=2, keep=0.5), sites)
    further = compact(further, {find_sites(further)[1].name: torch.arange(15) < 9})
    save_pretrained(further, tmp_path / "second")
    further.save_pretrained(tmp_path / "third")
    for name in ("second", "third"):
        third = load_pretrained(tmp_path / name)
        assert all_head_widths(third) == all_head_widths(further)
        assert layer_units(third) == layer_units(further)
        assert torch.equal(outputs(third), outputs(further))


def test_whole_heads_are_described_as_before(tmp_path: Path) -> None:
    """Whatever way they were removed, so that older versions can read the directory."""
    model = tiny("bert")
    sites = find_inner_sites(model, kinds=("v",))
    small = compact(model, {s.name: torch.arange(32) < 16 for s in sites}, sites)
    save_pretrained(small, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "fastprune",
        "version": 1,
        "units": {"attention": [2, 2, 2], "ffn": [37, 37, 37]},
    }
    assert torch.equal(outputs(load_pretrained(tmp_path / "model")), outputs(small))


@pytest.mark.parametrize(
    "change",
    [
        {"qk": [[9, 1, 1, 1], [0, 0, 0, 0], []]},
        {"qk": [[1, 1, 1], [0, 0, 0, 0], []]},
        {"v": [[1, 1, 1, 1], [0, 1, 1, 1], []]},
        {"v": [[1, 1, 1, 1], [1, 1, 1, 1]]},
        {"v": 5},
    ],
)
def test_wrong_head_widths(tmp_path: Path, change: dict[str, Any]) -> None:
    save_pretrained(narrowed("bert"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["head_widths"].update(change)
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="head widths that do not fit"):
        load_pretrained(tmp_path / "model")


def test_base_model_from_a_head_checkpoint(tmp_path: Path) -> None:
    model = pruned("bert", 0)
    save_pretrained(model, tmp_path / "model")
    base = hf.AutoModel.from_pretrained(tmp_path / "model", dtype="auto")
    inputs = dummy_inputs(model)
    assert torch.equal(base(**inputs).last_hidden_state, model.bert(**inputs).last_hidden_state)


def test_unpruned_models_stay_stock(tmp_path: Path) -> None:
    model = tiny("bert")
    save_pretrained(model, tmp_path / "model", report={"seed": 0})
    assert "quantization_config" not in json.loads((tmp_path / "model/config.json").read_text())
    assert json.loads((tmp_path / "model/fastprune_report.json").read_text()) == {"seed": 0}
    assert torch.equal(outputs(load_pretrained(tmp_path / "model")), outputs(model))


def test_overwriting_the_loaded_directory(tmp_path: Path) -> None:
    model = pruned("bert")
    save_pretrained(model, tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    save_pretrained(again, tmp_path / "model", overwrite=True)
    assert torch.equal(outputs(load_pretrained(tmp_path / "model")), outputs(model))


def test_models_their_config_cannot_rebuild_are_refused(tmp_path: Path) -> None:
    model = tiny("bert")
    model.bert.encoder.layer[0].output.dense = torch.nn.Linear(37, 32, bias=False).double()
    with pytest.raises(CheckpointError, match="cannot be rebuilt"):
        save_pretrained(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_pretrained(pruned("bert", 0), tmp_path / "model")
    return tmp_path / "model"


def refused(directory: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "cannot read .*no such directory")


def test_broken_config(directory: Path) -> None:
    (directory / "config.json").write_text('{"architectures": ["Bert')
    refused(directory, r"cannot read .*config\.json")


@pytest.mark.parametrize("length", [0, 5, 2000, -8])
def test_truncated_weights(directory: Path, length: int) -> None:
    file = directory / "model.safetensors"
    os.truncate(file, length if length >= 0 else file.stat().st_size + length)
    refused(directory, "cannot load")


def test_missing_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    refused(directory, "cannot load")


@pytest.mark.parametrize(
    "key", ["bert.encoder.layer.1.attention.self.key.weight", "classifier.bias"]
)
def test_missing_key(directory: Path, key: str) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors[key]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(directory, f"lack '{key}'")


def test_wrong_shape(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    key = "bert.encoder.layer.1.output.dense.weight"
    tensors[key] = tensors[key][:, 1:].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    refused(directory, "cannot load")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": {"attention": [1, 1, 1], "ffn": [9, 9]}}, "promises ffn units"),
        ({"units": {"attention": [9, 1, 1], "ffn": [9, 9, 9]}}, "promises attention units"),
        ({"units": {"attention": [1, 1, 1]}}, "promises ffn units None"),
        ({"version": 2}, "version 2"),
    ],
)
def test_wrong_description(directory: Path, change: dict[str, Any], message: str) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"].update(change)
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(directory)
