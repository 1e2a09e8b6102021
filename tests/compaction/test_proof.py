"""Proofs of declarations, right and wrong, and of an architecture declared by its user."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, tiny
from torch import nn

from fastprune.compaction import prove
from fastprune.errors import UnsupportedModelError
from fastprune.structure import Attention, Declaration, Sublayer, declare, find_sites
from fastprune.structure import declaration as registry
from fastprune.structure.families.decoders import LLAMA


@pytest.fixture(autouse=True)
def _private_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_masking_equals_removing(family: str, attention: str) -> None:
    model = tiny(family, attention=attention)
    report = prove(model)
    assert report.dtype == torch.float64
    assert len(report.sites) == 6
    assert report.holds, report.first_failure


def test_training_mode_and_half_precision_do_not_matter() -> None:
    model = tiny("bert").half().train()
    assert prove(model).holds
    assert model.training
    assert model.dtype == torch.float16


class Interleaved(nn.Module):
    """Attention whose fused projection holds q, k, v head by head."""

    def __init__(self, width: int, heads: int, by_head: bool) -> None:
        super().__init__()
        self.by_head, self.heads, self.head_dim = by_head, heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        shape = (-1, 3, self.head_dim) if self.by_head else (3, -1, self.head_dim)
        parts = self.qkv(x).unflatten(-1, shape)
        q, k, v = parts.unbind(-2 if self.by_head else -3)
        y = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        return self.out(y.transpose(1, 2).flatten(2)), None


class Block(nn.Module):
    def __init__(self, by_head: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.attn = Interleaved(24, 6, by_head)
        self.up, self.down = nn.Linear(24, 31), nn.Linear(31, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))[0]
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Toy(nn.Module):
    """A model that is no transformers model at all: a config with a type is enough."""

    def __init__(self, by_head: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="toy")
        self.blocks = nn.ModuleList(Block(by_head) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


TOY = Declaration(
    layers="blocks",
    attention=Attention(
        module="attn", inputs=("attn.qkv",), output="attn.out", residual="norm1", parts=3
    ),
    ffn=Sublayer(inputs=("up",), output="down", residual="norm2"),
)
INPUTS: dict[str, Any] = {"x": torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))}


def test_a_declared_architecture_is_proven() -> None:
    with pytest.raises(UnsupportedModelError, match="'toy'"):
        find_sites(Toy())
    declare("toy", TOY)
    assert [s.units for s in find_sites(Toy())] == [6, 31, 6, 31]
    assert prove(Toy(), INPUTS).holds


def test_a_wrong_layout_fails_at_its_first_site() -> None:
    declare("toy", TOY)
    report = prove(Toy(by_head=True), INPUTS)
    assert report.first_failure is not None
    assert report.first_failure.site.name == "blocks.0.attn.out"


def test_a_forgotten_projection_is_an_error() -> None:
    declare("llama", replace(LLAMA, ffn=replace(LLAMA.ffn, inputs=("mlp.up_proj",))))
    with pytest.raises(UnsupportedModelError, match="do not belong together"):
        prove(tiny("llama"))
