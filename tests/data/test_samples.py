from __future__ import annotations

import pytest
import torch

from fastprune.data import Padding, Samples
from fastprune.errors import DataError

LENGTHS = [3, 7, 1, 7, 5, 2, 9, 3]


def make(task: str = "classification") -> Samples:
    return Samples(
        features=[
            {"input_ids": [10 * i + t for t in range(n)], "attention_mask": [1] * n}
            for i, n in enumerate(LENGTHS, 1)
        ],
        labels=None if task == "causal-lm" else torch.arange(len(LENGTHS)),
        ids=[100 + i for i in range(len(LENGTHS))],
        task=task,
        padding=Padding(token_id=99),
    )


def test_draw_is_without_replacement_and_by_seed_alone():
    samples = make()
    drawn = samples.draw(len(LENGTHS), seed=0)
    assert sorted(drawn.ids) == samples.ids
    assert drawn.ids != samples.ids
    assert samples.draw(3, seed=5).ids == samples.draw(3, seed=5).ids
    assert {tuple(samples.draw(3, seed=s).ids) for s in range(5)} != {
        tuple(samples.draw(3, seed=0).ids)
    }


@pytest.mark.parametrize("n", [0, -1])
def test_draw_refuses_no_samples(n):
    with pytest.raises(DataError, match=f"^{n} samples"):
        make().draw(n, seed=0)


def test_draw_names_both_numbers_when_asked_for_too_many():
    with pytest.raises(DataError, match=r"9 samples .* hold 8"):
        make().draw(9, seed=0)


def test_select_keeps_everything_together():
    chosen = make().select([6, 0, 6])
    assert chosen.ids == [106, 100, 106]
    assert chosen.labels.tolist() == [6, 0, 6]
    assert [len(f["input_ids"]) for f in chosen.features] == [9, 3, 9]


def test_empty_samples_are_refused():
    with pytest.raises(DataError, match="no samples"):
        make().select([])


def test_mean_length_counts_valid_tokens_only():
    samples = make()
    samples.features[6]["attention_mask"][4] = 0
    assert samples.mean_length == (sum(LENGTHS) - 1) / len(LENGTHS)


@pytest.mark.parametrize("bucketed", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batches_hold_every_sample_once(batch_size, bucketed):
    samples = make()
    seen = []
    for batch in samples.batches(batch_size, bucketed=bucketed):
        index = batch.pop("sample_index")
        assert len(index) <= batch_size
        assert batch["labels"].tolist() == index.tolist()
        width = batch["input_ids"].shape[1]
        assert width == max(LENGTHS[i] for i in index)
        for row, mask, i in zip(batch["input_ids"], batch["attention_mask"], index, strict=True):
            n = LENGTHS[i]
            assert row.tolist() == samples.features[i]["input_ids"] + [99] * (width - n)
            assert mask.tolist() == [1] * n + [0] * (width - n)
        seen += index.tolist()
    assert sorted(seen) == list(range(len(LENGTHS)))
    assert bucketed or seen == sorted(seen)


def test_buckets_start_with_the_longest_and_keep_ties_in_order():
    order = [i for batch in make().batches(3) for i in batch["sample_index"].tolist()]
    assert order == [6, 1, 3, 4, 0, 7, 5, 2]


def test_batch_size_must_be_positive():
    with pytest.raises(DataError, match="batch size 0"):
        make().batches(0)


def test_language_model_labels_are_the_tokens_without_padding():
    batch = next(make("causal-lm").batches(8))
    valid = batch["attention_mask"] == 1
    assert torch.equal(batch["labels"][valid], batch["input_ids"][valid])
    assert (batch["labels"][~valid] == -100).all()


@pytest.mark.parametrize("bucketed", [True, False])
@pytest.mark.parametrize("tokens", [1, 9, 14, 1000])
def test_batches_hold_as_many_tokens_as_they_may(tokens, bucketed):
    samples = make()
    groups = samples.groups(tokens=tokens, bucketed=bucketed)
    assert sorted(p for group in groups for p in group) == list(range(len(LENGTHS)))
    costs = [len(group) * max(LENGTHS[p] for p in group) for group in groups]
    # A sample longer than the limit comes alone.
    assert all(cost <= tokens or len(g) == 1 for cost, g in zip(costs, groups, strict=True))
    following = [group[0] for group in groups[1:]]
    for group, position in zip(groups[:-1], following, strict=True):
        grown = [*group, position]
        assert len(grown) * max(LENGTHS[p] for p in grown) > tokens


def test_what_a_batch_holds_is_what_its_group_says():
    samples = make()
    for group, batch in zip(samples.groups(3), samples.batches(3), strict=True):
        assert batch["sample_index"].tolist() == group
        assert batch["attention_mask"].sum(1).tolist() == [LENGTHS[p] for p in group]
