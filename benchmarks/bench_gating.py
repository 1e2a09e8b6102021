"""A step under gates: what is closed left out, beside everything computed and multiplied.

    OMP_NUM_THREADS=1 pytest benchmarks/bench_gating.py --benchmark-only

Forward and backward of a BERT of the shape of all-MiniLM-L6-v2 with random weights, on 32
sentences of 16 tokens; gates are drawn once for both. No teacher: it costs the same either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from measure import compare
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from fastprune import find_sites
from fastprune.cofi.gating import Gating
from fastprune.cofi.values import GateValues
from fastprune.structure import masked


@pytest.mark.shapes(
    cpu=[(1.0,), (0.5,), (0.2,), (0.1,)], cuda=[(1.0,), (0.5,), (0.2,), (0.1,)], tiny=[(0.2,)]
)
def test_gated_step(
    benchmark: Any, device: torch.device, shape: tuple[float], request: pytest.FixtureRequest
) -> None:
    (kept,) = shape
    model, batch = _model_and_batch(device, request.config.getoption("tiny"))
    sites, gating = find_sites(model), Gating(model, find_sites(model), hidden=False)
    values = GateValues({site.name: _open(site.units, kept, device) for site in sites}, {})
    learnt = [*(p for p in model.parameters() if p.requires_grad), *values.units.values()]

    def step(context: Any) -> object:
        with context:
            loss = model(**batch).loss
        return torch.autograd.grad(loss, learnt, allow_unused=True)

    timed = compare(
        benchmark,
        device,
        ours=lambda: step(gating.on(values)),
        baselines={"multiplied": lambda: step(_multiplied(model, values))},
        rounds=11,
    )
    benchmark.group = f"gated_step {kept} {device}"
    benchmark.extra_info.update(kept=kept, threads=torch.get_num_threads(), **timed)


@contextmanager
def _multiplied(model: Any, values: GateValues) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(masked(model, values.units, find_sites(model)))
        yield


def _model_and_batch(device: torch.device, tiny: bool) -> tuple[Any, dict[str, Tensor]]:
    width = 32 if tiny else 384
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=6,
        num_attention_heads=width // 32 if width > 32 else 4,
        intermediate_size=4 * width,
        vocab_size=1000,
    )
    model = BertForSequenceClassification(config).to(device)
    model.bert.embeddings.word_embeddings.requires_grad_(False)
    ids = torch.randint(1000, (32, 16), device=device)
    return model, {"input_ids": ids, "labels": ids[:, 0] % 2}


def _open(units: int, kept: float, device: torch.device) -> Tensor:
    """Fractional gates, so many of them not 0."""
    z = torch.zeros(units)
    some = torch.randperm(units)[: max(1, round(kept * units))]
    z[some] = 0.5 + 0.5 * torch.rand(len(some))
    return z.to(device).requires_grad_()
