"""Rearrangement as the room offers it, against the loop over gradient rows of the original."""

from __future__ import annotations

import pytest
import torch

from fastprune.calibration import Statistics
from fastprune.selection import rearrange_masks


def textbook(mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Recompute the norm of the summed gradients for every candidate, at every step."""
    order = rows.square().sum(0).sort(stable=True).indices.tolist()
    pruned = order[: int((mask == 0).sum())]
    for unit in order[len(pruned) :]:
        pruned.append(unit)
        total = rows[:, pruned].sum(1, keepdim=True)
        removed = (total - rows[:, pruned]).square().sum(0).argmin()
        del pruned[int(removed)]
    kept = torch.ones_like(mask)
    kept[pruned] = 0
    return kept


def statistics_of(rows: torch.Tensor, sizes: tuple[int, ...]) -> Statistics:
    blocks = torch.cat([(g.T @ g).flatten() for g in rows.split(sizes, dim=1)]).float()
    names = tuple(f"site{i}" for i in range(len(sizes)))
    return Statistics(names, sizes, blocks, len(rows), len(rows), len(rows))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_textbook_loop_in_every_site_of_every_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 31, 12)
    # Correlated units, so that the off-diagonal decides.
    rows = torch.randn(64, 8, generator=generator).double()
    rows = rows @ torch.randn(8, sum(sizes), generator=generator).double()
    masks = (torch.rand(3, sum(sizes), generator=generator) > 0.4).float()
    result = rearrange_masks(statistics_of(rows, sizes), masks)
    expected = [
        torch.cat(list(map(textbook, mask.split(sizes), rows.split(sizes, dim=1))))
        for mask in masks
    ]
    assert torch.equal(result, torch.stack(expected))
    assert not torch.equal(result, masks)


def test_one_mask_comes_back_as_one_mask():
    rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1.0, 0, 1, 0, 1, 1])
    result = rearrange_masks(statistics_of(rows, (6,)), mask)
    assert result.shape == mask.shape
    assert result.sum() == mask.sum()
