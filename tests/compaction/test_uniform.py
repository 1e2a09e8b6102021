"""Uniformly pruned models with stock configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, tiny

from fastprune.compaction import compact, save_pretrained, uniform_kinds
from fastprune.errors import CheckpointError
from fastprune.structure import find_sites
from fastprune.structure.inputs import dummy_inputs

GROUPED = ("llama", "mistral", "qwen2")


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_config_builds_the_pruned_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    kinds = uniform_kinds(model)
    assert kinds == (("attention", "ffn") if family in GROUPED else ("ffn",))
    masks = {
        s.name: torch.arange(s.units) < (1 if s.kind == "attention" else 20)
        for s in find_sites(model)
        if s.kind in kinds
    }
    small = compact(model, masks)
    save_pretrained(small, tmp_path / "model", uniform=True)
    assert "quantization_config" not in json.loads((tmp_path / "model/config.json").read_text())
    again = type(model).from_pretrained(tmp_path / "model", dtype="auto")
    inputs = dummy_inputs(model)
    # Stock loading leaves the weights where the file has them, hence rounding differs.
    torch.testing.assert_close(again(**inputs)[0], small(**inputs)[0], rtol=1e-12, atol=1e-12)


def test_uneven_widths_are_refused(tmp_path: Path) -> None:
    model = tiny("bert")
    site = find_sites(model)[1]
    small = compact(model, {site.name: torch.arange(37) < 20})
    with pytest.raises(CheckpointError, match=r"equal, nonzero ffn units.*\[20, 37, 37\]"):
        save_pretrained(small, tmp_path / "model", uniform=True)
    assert list(tmp_path.iterdir()) == []


def test_heads_a_config_cannot_express_are_refused(tmp_path: Path) -> None:
    model = tiny("bert")
    masks = {s.name: torch.arange(4) < 2 for s in find_sites(model) if s.kind == "attention"}
    with pytest.raises(CheckpointError, match="'bert' cannot express fewer attention units"):
        save_pretrained(compact(model, masks), tmp_path / "model", uniform=True)


def test_no_units_at_all_are_refused(tmp_path: Path) -> None:
    model = tiny("bert")
    masks = {s.name: torch.zeros(37) for s in find_sites(model) if s.kind == "ffn"}
    with pytest.raises(CheckpointError, match="nonzero"):
        save_pretrained(compact(model, masks), tmp_path / "model", uniform=True)
