"""The whole pipeline beside the work it cannot do without, and beside other ways.

    pytest benchmarks/bench_pipeline.py --benchmark-only

The floor is one forward and activation-gradient backward over the calibration samples and one
forward of the pruned model, in the batches and the type that the pipeline works in. On the CPU the
model is the fine-tuned classifier in ``FASTPRUNE_ASSETS`` (skipped where that is absent); on a GPU
it has the shape of BERT-base, with random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import original
import pytest
import torch
from measure import compare
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from fastprune import Samples, collect_statistics, find_sites, load_pretrained, load_samples, prune
from fastprune.budget import parse_budget, price_sites
from fastprune.calibration.gradients import watch_gradients
from fastprune.calibration.objective import make_objective
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, backward_attention, batch_tokens, device_of, to_device
from fastprune.inputs import load_tokenizer
from fastprune.selection import rearrange_masks, search_masks
from fastprune.structure.declaration import anatomy

SAMPLES, SHARE = 2048, 0.5
GPU_TOKENS = 128


@pytest.fixture(scope="module")
def model(sst2):
    return load_pretrained(sst2["model"])


@pytest.fixture(scope="module")
def samples(sst2, model, request):
    tokenizer = load_tokenizer(sst2["model"], model)
    limit = 32 if request.config.getoption("tiny") else SAMPLES
    return load_samples(sst2["train"], tokenizer, model_config=model.config, limit=limit)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["fisher", "obs"])
def test_cpu_pipeline(benchmark, model, samples, method, name):
    """From loaded model and samples to the tuned model, without evaluation."""
    dtype = getattr(torch, name)
    result: dict[str, nn.Module] = {}

    def ours() -> None:
        result["pruned"] = run(model, samples, method, dtype)

    ours()
    timed = compare(
        benchmark,
        torch.device("cpu"),
        ours,
        {
            **other_ways(model, samples, method, dtype),
            "floor": floor(model, result["pruned"], samples, dtype),
        },
        rounds=3,
    )
    store(benchmark, "cpu", name, timed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["fisher", "obs"])
def test_gpu_pipeline(benchmark, method):
    """2,048 samples of 128 tokens, bfloat16 activations, against the original's way once."""
    device = torch.device("cuda")
    model = bert_base().to(device)
    samples = random_samples(SAMPLES, GPU_TOKENS)
    result: dict[str, nn.Module] = {}

    def ours() -> None:
        result["pruned"] = run(model, samples, method, torch.bfloat16)

    ours()
    torch.cuda.reset_peak_memory_stats()
    ours()
    peak = torch.cuda.max_memory_allocated() / 2**30
    timed = compare(
        benchmark,
        device,
        ours,
        {
            **other_ways(model, samples, method, torch.bfloat16),
            "floor": floor(model, result["pruned"], samples, torch.bfloat16),
        },
        once=[] if method == "obs" else ["original's way"],
    )
    store(benchmark, "cuda", "bfloat16", timed, peak_gib=peak)


def test_search_and_rearrangement_of_ten_budgets(benchmark, model, samples):
    statistics = collect_statistics(model, samples)
    prices = price_sites(find_sites(model), "macs", samples.mean_length)
    budgets = [parse_budget(0.05 + 0.09 * i) for i in range(1, 11)]

    def select() -> None:
        rearrange_masks(statistics, search_masks(statistics.importance(), prices, budgets))

    benchmark.pedantic(select, rounds=5, warmup_rounds=1)


def run(model: nn.Module, samples: Samples, method: str, dtype: torch.dtype) -> nn.Module:
    return prune(model, samples, SHARE, method=method, latency=False, dtype=dtype).model


def other_ways(
    model: nn.Module, samples: Samples, method: str, dtype: torch.dtype
) -> dict[str, Callable[[], object]]:
    if method == "obs":
        return {"fisher": lambda: run(model, samples, "fisher", dtype)}
    return {"original's way": lambda: original.prune(model, samples, SHARE)}


def floor(
    dense: nn.Module, pruned: nn.Module, samples: Samples, dtype: torch.dtype
) -> Callable[[], None]:
    """One forward and backward of ``dense``, one forward of ``pruned``."""
    device = device_of(dense)
    objective = make_objective(samples.task, labelled=False, seed=0)
    groups = samples.groups(tokens=batch_tokens(dense, dtype))

    def run() -> None:
        with (
            gradients_from_the_first_block(dense),
            watch_gradients(dense, []),
            backward_attention(device, dtype),
        ):
            for group in groups:
                batch = to_device(samples.collate(group), device)
                with autocast(device, dtype):
                    outputs = dense(**model_inputs(batch))
                ids = torch.tensor([samples.ids[p] for p in group])
                objective(outputs, batch, ids).sum().backward()
        with torch.inference_mode():
            for group in groups:
                batch = to_device(samples.collate(group), device)
                with autocast(device, dtype):
                    pruned(**model_inputs(batch))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


@contextmanager
def gradients_from_the_first_block(model: nn.Module):
    """Weights are frozen: what asks for gradients is the input of the first block."""
    first = model.get_submodule(anatomy(model).blocks[0])
    handle = first.register_forward_pre_hook(
        lambda module, args: (args[0].detach().requires_grad_(), *args[1:])
    )
    try:
        yield
    finally:
        handle.remove()


def store(benchmark: Any, device: str, dtype: str, timed: dict[str, Any], **more: float) -> None:
    benchmark.extra_info.update(
        device=device,
        threads=torch.get_num_threads(),
        dtype=dtype,
        **timed,
        floor_ratio=timed["seconds"] / timed["baseline_seconds"]["floor"],
        **more,
    )


def bert_base(**overrides: int) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_labels=2, **overrides)).eval()


def random_samples(count: int, tokens: int) -> Samples:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (count, tokens), generator=generator).tolist()
    features = [{"input_ids": row, "attention_mask": [1] * tokens} for row in ids]
    labels = torch.randint(0, 2, (count,), generator=generator)
    return Samples(features, labels, list(range(count)), "classification")
