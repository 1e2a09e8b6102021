"""Mask tuning of one layer: the systems and their solution, beside the paper's way.

    pytest benchmarks/bench_tuning.py --benchmark-only

From the activations of the fine-tuned classifier in ``FASTPRUNE_ASSETS`` (skipped where that is
absent), batch by batch: least squares over random numbers would be solved in a few steps of LSMR.
"""

from __future__ import annotations

import pytest
import textbook
import torch
from measure import compare
from torch import Tensor

from fastprune import find_sites, load_pretrained, load_samples, ops
from fastprune.data.samples import model_inputs
from fastprune.inputs import load_tokenizer
from fastprune.structure import get_projection
from fastprune.structure.probe import SiteProbe
from fastprune.tuning.system import LeastSquares

BATCH, LAYER = 32, 3
TOGETHER = 8  # batches, about as many tokens as wait together in a pruning run


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_mask_tuning(benchmark, sst2, kind, request):
    """Every other unit is gone; the target is the dense layer's output."""
    model = load_pretrained(sst2["model"])
    tokenizer = load_tokenizer(sst2["model"], model)
    count = 64 if request.config.getoption("tiny") else 2048
    samples = load_samples(sst2["train"], tokenizer, model_config=model.config, limit=count)
    site = next(s for s in find_sites(model) if s.layer == LAYER and s.kind == kind)
    weight, bias = get_projection(model, site)
    assert bias is not None
    kept = torch.arange(site.columns).view(site.units, site.group)[::2].flatten()
    units, outputs, group = site.units // 2, site.outputs, site.group
    weight = weight[:, kept].contiguous()
    batches: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), SiteProbe(model, site) as probe:
        for batch in samples.batches(BATCH):
            model(**model_inputs(batch))
            valid = batch["attention_mask"].bool()
            batches.append((probe.input[valid][:, kept].clone(), probe.output[valid] - bias))

    def ours() -> Tensor:
        system = LeastSquares(len(kept), outputs, weight.device)
        for start in range(0, len(batches), TOGETHER):
            inputs, targets = zip(*batches[start : start + TOGETHER], strict=True)
            system.add(torch.cat(inputs), torch.cat(targets))
        system.subtract(weight)
        a, b = ops.tuning_system(system.gram, weight, system.cross, group)
        return ops.block_lstsq(a.flatten(), b, [units], 1e-3)[0]

    def paper() -> Tensor:
        if kind == "ffn":
            return textbook.tune_filters(batches, weight)
        return textbook.tune_heads(batches, weight, group)

    timed = compare(benchmark, torch.device("cpu"), ours, {"the paper's way": paper}, rounds=5)
    benchmark.extra_info.update(
        device="cpu",
        threads=torch.get_num_threads(),
        case=f"mask_tuning {kind}",
        tokens=sum(len(x) for x, _ in batches),
        **timed,
    )
