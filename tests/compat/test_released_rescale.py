"""Rescaling in one pass against the released procedure, which runs the model again and again."""

from __future__ import annotations

import logging

import pytest
import released
import torch
from tiny_models import tiny
from tiny_samples import text_samples

from fastprune.compat.retraining_free import rescale_mask
from fastprune.errors import FastpruneError


def setting(seed, keep=(3, 28), teacher_keep=(4, 34)):
    model = tiny("bert", seed=seed).float()
    # LSMR stops at an error of 1e-6 times the condition, which is the norm of the matrix, as the
    # damping is 1. Smaller weights bring the FFNs' from thousands to 300 at most, so that two
    # ways to sum agree within 3e-4 of the largest deviation from one.
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight *= 0.3
            layer.output.dense.weight *= 0.3
    generator = torch.Generator().manual_seed(seed)

    def draw(units, count):
        mask = torch.zeros(3, units)
        for row in mask:
            row[torch.randperm(units, generator=generator)[:count]] = 1
        return mask

    teacher = draw(4, teacher_keep[0]), draw(37, teacher_keep[1])
    student = draw(4, keep[0]), draw(37, keep[1])
    batches = [
        {key: value for key, value in batch.items() if key != "sample_index"}
        for batch in text_samples("classification", count=24).batches(5)
    ]
    return model, teacher, student, batches


@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_scales_are_those_of_the_released_procedure(seed, classification):
    model, teacher, student, batches = setting(seed)
    expected, failures = released.Bert(model, batches).rescale(
        teacher, student, classification=classification, stop=False
    )
    before = [mask.clone() for mask in student]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = rescale_mask(model, model.config, *teacher, *student, batches, classification)
    for mask, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mask, wanted, rtol=0, atol=1e-3)
    assert failures < 5
    assert (found[0][1] - student[0][1]).abs().max() > 1e-2
    assert torch.equal(found[0][0], student[0][0])  # the first attention is left alone
    assert all(torch.equal(*pair) for pair in zip(before, student, strict=True))
    assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())


def test_masks_may_hold_scales_already_and_sublayers_may_be_empty():
    model, teacher, student, batches = setting(0)
    student[0][1] *= 0.8
    student[0][2] = 0
    student[1][1] *= 1.2
    student[1][0] = 0
    expected, _ = released.Bert(model, batches).rescale(
        teacher, student, classification=True, stop=False
    )
    found = rescale_mask(model, None, *teacher, *student, batches, True)
    for mask, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mask, wanted, rtol=0, atol=1e-3)
    assert not found[0][2].any()
    assert not found[1][0].any()


def test_one_failure_ends_everything_only_when_asked_to(caplog):
    model, teacher, student, batches = setting(2, keep=(3, 2))
    # 37 filters that are all alike: the 2 that stay would have to do 18.5 times as much.
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for values in (layer.intermediate.dense.weight, layer.intermediate.dense.bias):
            values[:] = values[:1].clone()
        layer.output.dense.weight[:] = layer.output.dense.weight[:, :1].clone()
    outcomes = []
    for stop in (False, True):
        expected, failures = released.Bert(model, batches).rescale(
            teacher, student, classification=True, stop=stop
        )
        assert failures
        with caplog.at_level(logging.WARNING):
            found = rescale_mask(
                model, None, *teacher, *student, batches, True, bug_compatible=stop
            )
        assert "keeps its mask" in caplog.text
        for mask, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(mask, wanted, rtol=0, atol=1e-3)
        outcomes.append(found)
    assert not torch.equal(outcomes[0][1], outcomes[1][1])


def test_masks_of_another_model_are_refused():
    model, teacher, student, batches = setting(0)
    with pytest.raises(FastpruneError, match="does not fit"):
        rescale_mask(model, None, *teacher, student[0], torch.ones(3, 36), batches)
