"""The order of training samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

_BATCHES = 50
"""That samples are drawn for at a time, and then sorted by length."""
_EPOCHS = 1_000_003
"""More than any training has: no epoch of one seed is one of the next."""


class ByLength(Sampler[int]):
    """Positions in a new random order every epoch, samples of like length beside each other.

    That of transformers draws from the global stream of random numbers; this one depends on seed
    and epoch alone, so that a training that is resumed in the middle of an epoch goes on in it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Draw nothing yet.

        Args:
            lengths: of all samples, in tokens.
            batch_size: samples that all processes together take at a time.
            seed: of the order.
        """
        self._lengths = torch.tensor(lengths)
        self._batch_size, self._seed, self._epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: its order depends on nothing else."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * _EPOCHS + self._epoch)
        batches: list[torch.Tensor] = []
        for drawn in torch.randperm(len(self), generator=generator).split(
            _BATCHES * self._batch_size
        ):
            longest_first = self._lengths[drawn].argsort(descending=True, stable=True)
            batches += drawn[longest_first].split(self._batch_size)
        # A batch that is not full stays last: the others would shift.
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        rest = [batch for batch in batches if len(batch) < self._batch_size]
        for place in torch.randperm(len(whole), generator=generator).tolist():
            yield from whole[place].tolist()
        for batch in rest:
            yield from batch.tolist()
