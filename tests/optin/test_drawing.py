"""Whole samples until there are enough tokens."""

from __future__ import annotations

from dataclasses import replace

from tiny_samples import image_samples, text_samples

from fastprune.optin.drawing import ROWS, draw_samples


def test_samples_are_drawn_until_they_hold_enough_tokens():
    samples = text_samples("classification", 200)
    drawn = draw_samples(samples, 5)
    assert sum(drawn.lengths) >= ROWS > sum(drawn.lengths[:-1])
    assert len(set(drawn.ids)) == len(drawn)
    assert draw_samples(samples, 5).ids == drawn.ids
    assert draw_samples(samples, 6).ids != drawn.ids


def test_fewer_are_all_taken():
    samples = text_samples("classification")
    assert sorted(draw_samples(samples, 0).ids) == sorted(samples.ids)


def test_padding_is_no_token():
    """Rows that came padded: half of their tokens are masked."""
    samples = text_samples("classification", 300)
    halved = [
        {**row, "attention_mask": [i % 2 for i in range(len(row["input_ids"]))]}
        for row in samples.features
    ]
    drawn = draw_samples(replace(samples, features=halved), 5)
    assert sum(drawn.lengths) >= ROWS
    assert sum(drawn.widths) > 1.8 * ROWS


def test_images_whose_number_of_patches_is_unknown():
    samples = replace(image_samples(40), image_tokens=0)
    assert len(draw_samples(samples, 0)) == 3
