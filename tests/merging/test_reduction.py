"""Token reduction on live models: counts, weights of tokens, copies, refusals."""

from __future__ import annotations

import copy
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from tiny_models import random_masks, tiny

from fastprune.compaction import compact, prove
from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.merging.reduction import (
    TokenReduction,
    reduce_,
    schedule_of,
    token_counts,
    unreduce_,
)
from fastprune.structure import find_sites
from fastprune.structure.declaration import anatomy
from fastprune.structure.inputs import dummy_inputs

FAMILIES = ["vit", "deit"]


def patched(family, **overrides):
    """Sixteen patches of 2 x 2 pixels, and one or two special tokens."""
    return tiny(family, patch_size=2, **overrides)


def schedules(model):
    _, special = token_counts(model)
    return [[n + special for n in counts] for counts in ([16, 16, 9], [16, 9, 9], [16, 8, 5])]


def logits(model, inputs=None):
    with torch.no_grad():
        return model(**(inputs or dummy_inputs(model))).logits


def entries(model, inputs=None):
    """Shapes of what enters each block, and the masks of attention."""
    seen = []
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda block, args: seen.append((args[0].shape[1], args[1]))
        )
        for path in anatomy(model).blocks
    ]
    logits(model, inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_nothing_removed_changes_nothing(family, attention):
    model = patched(family, attention=attention).float()
    before = logits(model)
    tokens, _ = token_counts(model)
    reduce_(model, [tokens] * 3)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("which", range(3))
def test_blocks_get_what_the_schedule_says(family, attention, which):
    model = patched(family, attention=attention)
    schedule = schedules(model)[which]
    reduce_(model, schedule)
    seen = entries(model)
    assert [count for count, _ in seen] == schedule
    for (count, mask), full in zip(seen, schedule, strict=True):
        if full == schedule[0]:
            assert mask is None
            continue
        assert mask.shape == (2, 1, 1, count)
        # Each logarithm is off by half an ulp of log(17) < 3, and so is its exponential.
        bound = count * 17 * 4 * torch.finfo(torch.float64).eps
        assert (mask.exp().sum(-1) - schedule[0]).abs().max() <= bound
    assert schedule_of(model) == schedule


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_merging_copies_of_a_token_changes_nothing(family, attention):
    """Attention to one token of size two equals attention to two alike: the weights are right."""
    model = patched(family, attention=attention)
    tokens, special = token_counts(model)
    # Patches lie row by row: neighbours are made alike, each pair unlike all others.
    positions = dict(model.named_parameters())[f"{family}.embeddings.position_embeddings"]
    positions.data[:, special + 1 :: 2] = positions.data[:, special::2]
    inputs = dummy_inputs(model)
    pixels = inputs["pixel_values"].unflatten(3, (2, 4))
    pixels[..., 2:] = pixels[..., :2]
    expected = logits(model, inputs)
    reduce_(model, [tokens, special + 8, special + 8])
    found = logits(model, inputs)
    # As in compaction.prove: sums in another order, over the widths of all sublayers. Eager
    # attention takes its softmax in float32 whatever the model's type.
    steps = sum(site.columns + site.outputs for site in find_sites(model))
    eps = torch.finfo(torch.float32 if attention == "eager" else torch.float64).eps
    bound = steps * eps * expected.abs().max()
    assert (found - expected).abs().max() <= bound


def test_attention_without_weights_would_be_seen(monkeypatch):
    """The test above can fail."""
    model = patched("vit")
    reduce_(model, [17, 9, 9])
    before = logits(model)
    monkeypatch.setattr(TokenReduction, "enter", lambda self, layer, hidden: None)
    assert (logits(model) - before).abs().max() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_may_be_gone(family):
    """Without heads there are no keys: hidden states are compared. Uneven heads do no harm."""
    model = patched(family)
    masks = random_masks(find_sites(model))
    for site in find_sites(model)[:2]:
        masks[site.name][:] = 0
    small = compact(model, masks)
    schedule = schedules(small)[2]
    reduce_(small, schedule)
    assert [count for count, _ in entries(small)] == schedule
    assert torch.isfinite(logits(small)).all()


def test_copies_are_independent():
    model = patched("vit")
    full = logits(model)
    reduce_(model, [17, 9, 5])
    reduced = logits(model)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other), reduced)
    unreduce_(other)
    assert torch.equal(logits(other), full)
    assert schedule_of(other) is None
    assert torch.equal(logits(model), reduced)


def in_the_middle():
    """A reduced model, images for it, and a block that sees merged tokens."""
    model = tiny("vit", patch_size=2).float()
    reduce_(model, [17, 12, 9])
    return model, torch.randn(2, 3, 8, 8), model.get_submodule(anatomy(model).blocks[1])


def test_another_threads_pass_is_refused():
    """Tokens of one pass must not be weighed by the sizes of another."""
    model, images, block = in_the_middle()

    def interfere(*_):
        hook.remove()
        other = Thread(target=lambda: model(images[:1]))
        other.start()
        other.join()

    hook = block.register_forward_pre_hook(interfere, prepend=True)
    with pytest.raises(FastpruneError, match="two threads run this model at once"):
        model(images)
    model(images)


def test_copies_of_a_pass_that_failed():
    """Tokens' sizes that are being differentiated would not let themselves be copied."""
    model, images, block = in_the_middle()

    def fail(*_):
        raise RuntimeError("in the middle")

    hook = block.register_forward_hook(fail, prepend=True)
    with pytest.raises(RuntimeError, match="in the middle"):
        model(images)
    hook.remove()
    assert torch.equal(copy.deepcopy(model)(images).logits, model(images).logits)


def test_a_pass_that_failed_leaves_nothing_behind():
    model = patched("vit")
    reduce_(model, [17, 9, 5])
    reduced = logits(model)

    def fail(*_):
        raise KeyboardInterrupt

    hook = model.get_submodule(anatomy(model).blocks[2]).register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        logits(model)
    hook.remove()
    assert torch.equal(logits(model), reduced)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision(dtype, attention):
    inputs = dummy_inputs(patched("vit").float())
    cast = patched("vit", attention=attention).to(dtype)
    under = patched("vit", attention=attention).float()
    for model in (cast, under):
        reduce_(model, [17, 9, 5])
    with torch.autocast("cpu", dtype=dtype):
        assert torch.isfinite(logits(under, inputs)).all()
    assert torch.isfinite(logits(cast, {k: x.to(dtype) for k, x in inputs.items()})).all()


def test_gradients_flow():
    model = patched("vit")
    reduce_(model, [17, 9, 5])
    model(**dummy_inputs(model)).logits.square().sum().backward()
    first = next(p for name, p in model.named_parameters() if "position_embeddings" in name)
    assert (first.grad.abs().sum(-1) > 0).all()  # every position counts, merged or not


def test_compiled_in_one_piece():
    model = patched("vit").float()
    reduce_(model, [17, 9, 5])
    inputs, before = dummy_inputs(model), None
    before = logits(model, inputs)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(**inputs).logits, before)


def test_inspection_still_proves_the_sites():
    model = patched("vit")
    reduce_(model, [17, 9, 5])
    assert prove(model).holds
    assert schedule_of(model) == [17, 9, 5]


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ([17, 9], "2 blocks, but the model has 3"),
        ([16, 9, 9], "16 tokens cannot enter block 0; give a whole number from 17 to 17"),
        ([17, 8, 8], "8 tokens cannot enter block 1; give a whole number from 9 to 17"),
        ([17, 9, 10], "10 tokens cannot enter block 2; give a whole number from 5 to 9"),
        ([17, 9.0, 9], "whole number"),
    ],
)
def test_schedules_that_do_not_fit(schedule, reason):
    model = patched("vit")
    with pytest.raises(FastpruneError, match=reason):
        reduce_(model, schedule)
    assert schedule_of(model) is None


def test_the_last_patch_stays():
    model = tiny("vit", patch_size=2, num_hidden_layers=6)
    reduce_(model, [17, 9, 5, 3, 2, 2])
    assert [count for count, _ in entries(model)] == [17, 9, 5, 3, 2, 2]


def test_reduced_twice():
    model = patched("vit")
    reduce_(model, [17, 9, 5])
    with pytest.raises(FastpruneError, match="are reduced"):
        reduce_(model, [17, 9, 9])


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "llama"])
def test_text_models_have_no_patches(family):
    with pytest.raises(UnsupportedModelError, match="ViT or DeiT"):
        reduce_(tiny(family), [5, 5, 5])


def test_images_of_another_size():
    model = patched("vit")
    reduce_(model, [17, 9, 5])
    pixels = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(FastpruneError, match="reduced from 17, but these images make 65"):
        model(pixel_values=pixels, interpolate_pos_encoding=True)


def test_attention_that_takes_no_weights():
    config = SimpleNamespace(_attn_implementation="flash_attention_2")
    reduction = TokenReduction([17, 9, 5], 1, config, ("sdpa", "eager"))
    hidden = torch.randn(2, 17, 4)
    assert reduction.enter(0, hidden) is None
    left = reduction.leave(0, hidden)
    with pytest.raises(FastpruneError, match="attn_implementation='sdpa' or 'eager'"):
        reduction.enter(1, left)
