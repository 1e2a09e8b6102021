"""Moments against sums over one sample at a time, unpadded, with autograd's own gradients."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

from fastprune import Statistics, collect_statistics, find_sites
from fastprune.calibration.objective import make_objective
from fastprune.data.samples import model_inputs
from fastprune.errors import NumericalError


def tokens_of(model, site, samples):
    """Inputs of the site's projection and gradients at its output: [all tokens, ...], float64."""
    objective = make_objective(samples.task, labelled=True, seed=0)
    inputs, gradients = [], []
    for i in range(len(samples)):
        (batch,) = samples.select([i]).batches(1)
        batch.pop("sample_index")
        seen = []
        handle = model.get_submodule(site.name).register_forward_hook(
            lambda module, args, out, seen=seen: seen.append((args[0], out))
        )
        out = model(**model_inputs(batch))
        loss = objective(out, batch, torch.tensor(samples.ids[i : i + 1])).sum()
        handle.remove()
        ((x, y),) = seen
        inputs.append(x.detach().reshape(-1, site.columns))
        gradients.append(torch.autograd.grad(loss, y)[0].reshape(-1, site.outputs))
    return torch.cat(inputs), torch.cat(gradients)


@pytest.mark.parametrize("family", ["bert", "opt", "vit", "llama"])
@pytest.mark.parametrize("index", [0, 1, -1])
def test_inputs_count_by_the_norm_of_their_gradient(family, index):
    model, samples = tiny(family).float(), samples_for(family)
    sites = find_sites(model)
    index %= len(sites)
    found = collect_statistics(model, samples, targets="labels", batch_size=3, mask_fisher=False)
    moments, outputs = found.kronecker_factors()
    x, gradients = tokens_of(model.double(), sites[index], samples)
    norms = gradients.norm(dim=1)
    assert int(moments.tokens[index]) == int((norms > 0).sum())
    weights = norms * (norms > 0).sum() / norms.sum()
    expected = x.T @ (weights[:, None] * x)
    mean = (weights[:, None] * x).sum(0) / weights.sum()
    centred = (x - mean).T @ (weights[:, None] * (x - mean))
    # float32 activations: c * tokens * width * eps relative to the largest entry.
    scale = expected.abs().max()
    assert (moments.about_zero(index) - expected).abs().max() <= 2e-4 * scale
    assert (moments.about_mean(index) - centred).abs().max() <= 2e-4 * scale
    products = gradients.T @ gradients
    assert (outputs[index] - products).abs().max() <= 2e-4 * products.abs().max()


def test_a_classifier_depends_on_one_token_of_the_last_layer():
    model, samples = tiny("bert").float(), text_samples("classification", 9)
    found = collect_statistics(model, samples)
    moments, _ = found.kronecker_factors()
    assert moments.tokens[-2:].tolist() == [9, 9]
    assert (moments.tokens[:-2] == found.tokens).all()


def test_shards_add_up_and_come_back_from_disk(tmp_path):
    model, samples = tiny("bert").float(), text_samples("classification", 8)
    whole = collect_statistics(model, samples)
    parts = [collect_statistics(model, samples.select(p)) for p in (range(3), range(3, 8))]
    (parts[0] + parts[1]).save(tmp_path / "sum.safetensors")
    together, _ = Statistics.load(tmp_path / "sum.safetensors").kronecker_factors()
    expected, _ = whole.kronecker_factors()
    for i in range(len(whole.sizes)):
        # float32 gradients of other batches, relative to the moments that means are taken from.
        scale = expected.about_zero(i).abs().max()
        assert (together.about_mean(i) - expected.about_mean(i)).abs().max() <= 2e-4 * scale


def test_sums_that_overflow_are_refused():
    model, samples = tiny("bert").float(), text_samples("classification", 4)
    model.bert.encoder.layer[1].intermediate.dense.bias.data[2] = 1e25
    model.bert.encoder.layer[1].output.dense.weight.data[:, 2] = 1e-25
    with pytest.raises(NumericalError, match="too large for float32 sums"):
        collect_statistics(model, samples, mask_fisher=False)
