"""Merging against a plain procedure, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastprune.merging.matching import merge


def plain_merge(hidden, sizes, features, count, special):
    """One sample, float64: [tokens, width], [tokens], [tokens, any] to what is left of the first
    two."""
    patches = list(range(special, len(hidden)))
    first, second = patches[0::2], patches[1::2]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    matches = []
    for token in first:
        cosines = [unit[token] @ unit[other] for other in second]
        matches.append((-max(cosines), token, second[int(np.argmax(cosines))]))
    groups = {token: [token] for token in patches}
    for _, token, other in sorted(matches)[:count]:
        groups[other].append(token)
        del groups[token]
    left = [[token] for token in range(special)] + [groups[token] for token in sorted(groups)]
    means = [np.average(hidden[group], axis=0, weights=sizes[group]) for group in left]
    return np.stack(means), np.array([sizes[group].sum() for group in left])


def drawn(samples, tokens, width, special, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(samples, tokens, width, generator=generator, dtype=dtype)
    features = torch.randn(samples, tokens, 5, generator=generator, dtype=dtype)
    sizes = torch.randint(1, 9, (samples, tokens), generator=generator).to(dtype)
    sizes[:, :special] = 1
    return hidden, sizes, features


@pytest.mark.parametrize("special", [1, 2])
@pytest.mark.parametrize(("patches", "count"), [(2, 1), (3, 2), (9, 1), (9, 5), (16, 8), (25, 7)])
def test_equals_the_plain_procedure(patches, count, special):
    hidden, sizes, features = drawn(3, patches + special, 7, special)
    merged, larger = merge(hidden, sizes, features, count, special)
    assert merged.shape == (3, patches + special - count, 7)
    for row in range(3):
        arrays = (x[row].numpy() for x in (hidden, sizes, features))
        means, sums = plain_merge(*arrays, count, special)
        # A weighted mean of k tokens is off by (k + 1) eps of its largest term; k <= count + 1.
        bound = (count + 2) * np.finfo(np.float64).eps * np.abs(hidden[row].numpy()).max()
        np.testing.assert_allclose(merged[row].numpy(), means, rtol=0, atol=bound)
        assert larger[row].tolist() == sums.tolist()


@pytest.mark.parametrize("special", [1, 2])
def test_special_tokens_stay_and_sizes_add_up(special):
    hidden, _, features = drawn(2, 20 + special, 6, special)
    sizes = torch.ones(2, 20 + special)
    for count in (10, 5, 2, 2):
        before = hidden[:, :special].clone()
        hidden, sizes = merge(hidden, sizes, features[:, : hidden.shape[1]], count, special)
        assert torch.equal(hidden[:, :special], before)
        assert sizes.sum(1).tolist() == [20 + special] * 2
    assert hidden.shape[1] == 1 + special


def test_what_goes_in_is_left_alone():
    given = drawn(2, 9, 4, 1)
    before = [x.clone() for x in given]
    merge(*given, 3, 1)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_samples_do_not_see_each_other():
    hidden, sizes, features = drawn(4, 17, 6, 1)
    together, _ = merge(hidden, sizes, features, 5, 1)
    alone = [merge(hidden[[i]], sizes[[i]], features[[i]], 5, 1)[0] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=8 * 2.3e-16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_merged_in_float32(dtype):
    """300 is no bfloat16: a size kept in half precision would be rounded."""
    hidden, _, features = drawn(1, 3, 4, 1, dtype=dtype)
    sizes = torch.tensor([[1.0, 257.0, 44.0]])
    merged, larger = merge(hidden, sizes, features, 1, 1)
    assert merged.dtype == dtype
    assert larger.tolist() == [[1.0, 301.0]]
    exact = (hidden[0, 1].double() * 257 + hidden[0, 2].double() * 44) / 301
    # Rounded once to the half type, after arithmetic that is far more precise.
    bound = 0.51 * torch.finfo(dtype).eps * 2 ** exact.abs().log2().ceil()
    assert ((merged[0, 1].double() - exact).abs() <= bound).all()


def test_autocast_does_not_round_the_residual_stream():
    hidden, sizes, features = (x.float() for x in drawn(2, 17, 6, 1))
    expected = merge(hidden, sizes, features, 5, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = merge(hidden, sizes, features, 5, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
