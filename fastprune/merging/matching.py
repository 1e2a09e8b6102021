"""Bipartite soft matching: the tokens that most resemble another one become part of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def merge(
    hidden: Tensor, sizes: Tensor, features: Tensor, count: int, special: int
) -> tuple[Tensor, Tensor]:
    """Merge ``count`` pairs of tokens, in every sample those that are most alike.

    Tokens are dealt out to two sets in turns. Each of the first is matched with the one of the
    second whose features have the largest cosine with its own, and the ``count`` best matches are
    made one token each: the mean, weighted by how many tokens either stands for already. Bolya et
    al., Token Merging (ICLR 2023, arXiv 2210.09461), section 3. What is left keeps its order, so
    that neighbours in the image are in different sets again at the next reduction.

    All samples are treated at once, nothing waits for the device, and sums have a fixed order.

    Args:
        hidden: [samples, tokens, width], special tokens first.
        sizes: how many tokens each stands for, [samples, tokens], float32 or float64.
        features: what tokens are compared by, [samples, tokens, any width].
        count: of pairs, from 1 to half of the tokens that are not special, rounded up; at least
            one of these is left.
        special: leading tokens that stay as they are.

    Returns:
        hidden states [samples, tokens - count, width] and sizes [samples, tokens - count], in the
        types they came in.
    """
    # In half precision, cosines of neighbours would tie, and sizes would round.
    exact = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        size = sizes[:, special:, None].to(exact)
        # Hidden states and sizes in one tensor: whatever happens to the one happens to the other.
        tokens = torch.cat([hidden[:, special:] * size, size], dim=-1)
        going, target, staying = _matches(features[:, special:].to(exact), count)
        seconds = torch.arange(tokens.shape[1] // 2, device=hidden.device)
        # A product with zeros and ones instead of a scattered sum, which GPUs do in any order.
        joins = (target[:, None, :] == seconds[:, None]).to(exact)
        joined = tokens[:, 1::2] + joins @ _rows(tokens, going)
        tokens = _rows(tokens.slice_scatter(joined, 1, start=1, step=2), staying)
        means = tokens[..., :-1] / tokens[..., -1:]
    return (
        torch.cat([hidden[:, :special], means.to(hidden.dtype)], dim=1),
        torch.cat([sizes[:, :special], tokens[..., -1].to(sizes.dtype)], dim=1),
    )


def _matches(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens go, which of the second set each joins, and which tokens stay, in order."""
    features = F.normalize(features, dim=-1)
    best, closest = (features[:, 0::2] @ features[:, 1::2].mT).max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    going = order[:, :count]
    seconds = torch.arange(1, features.shape[1], 2, device=features.device)
    left = torch.cat([2 * order[:, count:], seconds.expand(len(order), -1)], dim=1)
    return 2 * going, closest.gather(1, going), left.sort(dim=1).values


def _rows(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
