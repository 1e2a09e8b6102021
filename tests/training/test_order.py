"""The order of samples: new in every epoch, repeated by its seed, of like lengths in a batch."""

from __future__ import annotations

from itertools import pairwise

import torch

from fastprune.training.order import ByLength

SIZE, COUNT = 8, 1003
LENGTHS = torch.randint(3, 50, (COUNT,), generator=torch.Generator().manual_seed(0)).tolist()


def order(seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = ByLength(LENGTHS, SIZE, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == COUNT
    return list(sampler)


def spread(positions: list[int]) -> float:
    """How far lengths differ in a batch, on average."""
    batches = [positions[i : i + SIZE] for i in range(0, COUNT - SIZE, SIZE)]
    ranges = [max(LENGTHS[p] for p in b) - min(LENGTHS[p] for p in b) for b in batches]
    return sum(ranges) / len(ranges)


def test_every_sample_comes_once() -> None:
    assert sorted(order()) == list(range(COUNT))


def test_it_depends_on_seed_and_epoch_alone() -> None:
    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_lengths_of_a_batch_are_alike() -> None:
    assert spread(order()) < 0.2 * spread(torch.randperm(COUNT).tolist())


def test_batches_are_in_no_order() -> None:
    found = order()
    longest = [max(LENGTHS[p] for p in found[i : i + SIZE]) for i in range(0, COUNT - SIZE, SIZE)]
    steps = [b - a for a, b in pairwise(longest)]
    assert 0.3 < sum(step > 0 for step in steps) / len(steps) < 0.7
