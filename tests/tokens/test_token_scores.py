"""Scores of tokens against the plain definition: one forward pass of the whole model per token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import random_masks, tiny
from tiny_samples import image_samples

from fastprune.compaction import compact
from fastprune.errors import FastpruneError, NumericalError, UnsupportedModelError
from fastprune.merging.reduction import reduce_, token_counts
from fastprune.structure import find_sites
from fastprune.structure.declaration import anatomy
from fastprune.tokens.scores import score_tokens


@torch.no_grad()
def passage(model, pixels, layer=None, position=None):
    """What leaves each block, and the distribution over classes, without one token from a block
    on."""
    left, hooks = [], []
    for index, path in enumerate(anatomy(model).blocks):
        block = model.get_submodule(path)
        if index == layer:
            hooks.append(
                block.register_forward_pre_hook(
                    lambda _, args: (
                        torch.cat([args[0][:, :position], args[0][:, position + 1 :]], 1),
                        *args[1:],
                    )
                )
            )
        hooks.append(block.register_forward_hook(lambda _, args, output: left.append(output)))
    distribution = model(pixel_values=pixels).logits.softmax(-1)
    for hook in hooks:
        hook.remove()
    return left, distribution


def gram(hidden):
    """Products of images, position by position, then the mean."""
    unit = hidden / hidden.norm(dim=-1, keepdim=True)
    return torch.stack([unit[:, p] @ unit[:, p].T for p in range(unit.shape[1])]).mean(0)


def plain_score(model, pixels, layer, position):
    full, dense = passage(model, pixels)
    less, other = passage(model, pixels, layer, position)
    lost = sum(float((gram(a) - gram(b)).square().sum()) for a, b in zip(full, less, strict=True))
    return lost + 0.1 * 16 * float((dense * (dense / other).log()).sum())


def model_and_samples(family, count=5, **overrides):
    model = tiny(family, patch_size=2, **overrides)
    # Gentler weights: with those of tiny models, softmax is all but one-hot.
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    samples = replace(image_samples(count), image_tokens=token_counts(model)[0])
    samples = replace(
        samples, features=[{k: x.double() for k, x in row.items()} for row in samples.features]
    )
    return model, samples


@pytest.mark.parametrize("family", ["vit", "deit"])
@pytest.mark.parametrize("batch_size", [None, 5, 17])
def test_equals_the_plain_definition(family, batch_size):
    model, samples = model_and_samples(family)
    tokens, special = token_counts(model)
    pixels = torch.stack([row["pixel_values"] for row in samples.features])
    found = score_tokens(model, samples, batch_size=batch_size)
    assert found.shape == (3, tokens - special)
    assert np.isinf(found[0]).all()
    expected = [
        [plain_score(model, pixels, layer, special + p) for p in range(tokens - special)]
        for layer in (1, 2)
    ]
    # A Gram sums tokens * width products of at most 1 / tokens each, in any order: its entries are
    # off by width * eps. Distances of 25 entries that differ by d are off by twice that over d;
    # the logarithms of the divergence lose as much where probabilities are that close.
    smallest = np.sqrt(np.min(expected) / 25)
    bound = 4 * 32 * np.finfo(np.float64).eps / smallest
    np.testing.assert_allclose(found[1:], expected, rtol=bound)


def test_float32_keeps_what_small_differences_say():
    """Grams are subtracted, which loses digits; more than rounding of the Grams is not lost."""
    model, samples = model_and_samples("vit")
    exact = np.sqrt(score_tokens(model, samples)[1:])
    rows = [{k: x.float() for k, x in row.items()} for row in samples.features]
    found = np.sqrt(score_tokens(model.float(), replace(samples, features=rows))[1:])
    # Entries of a Gram are off by width * eps; roots of summed squares by the norm of what their
    # terms are off by: of three Grams of 25 entries here.
    bound = 32 * np.finfo(np.float32).eps * np.sqrt(3 * 25)
    assert exact.min() > 100 * bound
    np.testing.assert_allclose(found, exact, rtol=0, atol=bound)


def test_pruned_models_are_scored_as_they_are():
    model, samples = model_and_samples("vit")
    small = compact(model, random_masks(find_sites(model)))
    pixels = torch.stack([row["pixel_values"] for row in samples.features])
    found = score_tokens(small, samples)
    assert found[1, 3] == pytest.approx(plain_score(small, pixels, 1, 4), rel=1e-9)


def test_the_model_is_left_as_it_was():
    model, samples = model_and_samples("vit")
    model.train()
    before = {k: x.clone() for k, x in model.state_dict().items()}
    score_tokens(model, samples)
    assert model.training
    assert all(torch.equal(x, before[k]) for k, x in model.state_dict().items())
    blocks = [model.get_submodule(path) for path in anatomy(model).blocks]
    assert not any(block._forward_pre_hooks for block in blocks)


def test_images_are_drawn_by_seed():
    model, samples = model_and_samples("vit", count=40)
    first, again, other = (score_tokens(model, samples, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_refusals():
    model, samples = model_and_samples("vit")
    with pytest.raises(UnsupportedModelError, match="ViT or DeiT"):
        score_tokens(tiny("bert"), samples)
    broken = tiny("vit", patch_size=2)
    broken.classifier.weight.data[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="scores of tokens are not finite"):
        score_tokens(broken, samples)
    reduce_(model, [17, 9, 5])
    with pytest.raises(FastpruneError, match="score a model with all its tokens"):
        score_tokens(model, samples)
