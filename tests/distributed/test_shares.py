"""Who takes which samples."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tiny_samples import image_samples, text_samples

from fastprune.distributed import ALONE, share
from fastprune.errors import DataError


def shares(samples, size, **options):
    return [
        share(samples, SimpleNamespace(rank=rank, size=size), **options) for rank in range(size)
    ]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("count", [5, 16, 47])
def test_every_sample_belongs_to_one_process_and_tokens_are_balanced(size, count):
    samples = text_samples("classification", count)
    found = shares(samples, size)
    assert sorted(i for mine in found for i in mine.ids) == samples.ids
    assert all(mine.ids == sorted(mine.ids) for mine in found)
    counts = [len(mine) for mine in found]
    tokens = [sum(mine.lengths) for mine in found]
    assert max(counts) - min(counts) <= 1
    assert max(tokens) - min(tokens) <= max(samples.lengths)
    assert max(found[0].lengths) == max(samples.lengths)


@pytest.mark.parametrize("size", [2, 3])
def test_mini_batches_stay_whole(size):
    samples = text_samples("classification", 14)
    batches = [samples.ids[start : start + 4] for start in range(0, 14, 4)]
    found = []
    for mine in shares(samples, size, together=4):
        found += [mine.ids[start : start + 4] for start in range(0, len(mine), 4)]
    assert sorted(found) == batches


def test_labels_follow_their_samples():
    samples = text_samples("classification", 9)
    for mine in shares(samples, 2):
        assert mine.labels.tolist() == [(i - 100) % 2 for i in mine.ids]


def test_images_of_unknown_length_are_shared_by_number():
    assert [len(mine) for mine in shares(image_samples(5), 2)] == [3, 2]


def test_alone_nothing_is_divided():
    samples = text_samples("classification", 3)
    assert share(samples, ALONE, together=32) is samples


def test_too_few_samples_are_refused_in_one_line():
    with pytest.raises(DataError, match=r"2 calibration samples are too few for 3 processes") as e:
        shares(text_samples("classification", 2), 3)
    assert "\n" not in str(e.value)
    with pytest.raises(DataError, match=r"mini-batches of 32 that stay whole.*at most 1$"):
        shares(text_samples("classification", 20), 2, together=32)
