"""Mask gradients against autograd through explicit mask variables, one sample at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, tiny
from tiny_samples import TASKS, samples_for, text_samples

from fastprune import collect_statistics, find_sites
from fastprune.calibration.objective import make_objective
from fastprune.data.samples import model_inputs
from fastprune.errors import DataError, NumericalError
from fastprune.structure import masked


def expected_rows(model, sites, samples, *, labelled: bool = True, seed: int = 0) -> torch.Tensor:
    """d loss / d mask of each sample alone, unpadded, with masks as autograd variables."""
    objective = make_objective(samples.task, labelled=labelled, seed=seed)
    rows = []
    for i in range(len(samples)):
        (batch,) = samples.select([i]).batches(1)
        batch.pop("sample_index")
        masks = {s.name: torch.ones(s.units, dtype=torch.float64).requires_grad_() for s in sites}
        with masked(model, masks):
            loss = objective(
                model(**model_inputs(batch)), batch, torch.tensor(samples.ids[i : i + 1])
            )
        gradients = torch.autograd.grad(loss.sum(), list(masks.values()))
        rows.append(torch.cat(gradients))
    return torch.stack(rows).double()


def assert_blocks(statistics, rows, sizes):
    blocks = statistics.blocks.split([n * n for n in sizes])
    for block, g in zip(blocks, rows.split(sizes, dim=1), strict=True):
        expected = (g.T @ g).flatten()
        # float32 activations: c * tokens * width * eps relative to the largest entry.
        assert (block.double() - expected).abs().max() <= 2e-4 * expected.abs().max()


@pytest.mark.parametrize("family", [f for f in FAMILIES if TASKS.get(f) != "embedding"])
def test_rows_are_gradients_of_each_sample_alone(family):
    model = tiny(family).float()
    sites = find_sites(model)
    samples = samples_for(family)
    rows = expected_rows(model.double(), sites, samples)
    statistics = collect_statistics(model.float(), samples, targets="labels", batch_size=3)
    assert statistics.rows == statistics.samples == len(samples)
    assert_blocks(statistics, rows, [site.units for site in sites])


@pytest.mark.parametrize("family", ["roberta", "gpt2", "xlm-roberta"])
def test_sampled_targets_need_no_labels_and_do_not_depend_on_the_batch(family):
    model = tiny(family).float()
    if family == "roberta":
        # Its spans depend on so little that gradients in float32 would be rounding.
        model.qa_outputs.weight.data.mul_(30)
    sites = find_sites(model)
    samples = samples_for(family, labels=False)
    one = collect_statistics(model, samples, batch_size=1, targets="model", seed=5)
    many = collect_statistics(model, samples, batch_size=7, targets="model", seed=5)
    other = collect_statistics(model, samples, batch_size=7, targets="model", seed=6)
    scale = one.blocks.abs().max()
    assert (one.blocks - many.blocks).abs().max() <= 1e-4 * scale
    assert (one.blocks - other.blocks).abs().max() > 1e-2 * scale
    rows = expected_rows(model.double(), sites, samples, labelled=False, seed=5)
    assert_blocks(one, rows, [site.units for site in sites])


def test_batch_rows_are_gradients_of_mini_batch_means():
    model = tiny("bert").float()
    sites = find_sites(model)
    samples = text_samples("classification", 8)
    rows = expected_rows(model.double(), sites, samples).view(2, 4, -1).mean(1)
    statistics = collect_statistics(
        model.float(), samples, targets="labels", batch_size=4, fisher="batch"
    )
    assert statistics.rows == 2
    assert_blocks(statistics, rows, [site.units for site in sites])


def test_regression_uses_the_squared_error():
    model = tiny("bert", num_labels=1).float()
    samples = text_samples("regression")
    rows = expected_rows(model.double(), find_sites(model), samples)
    statistics = collect_statistics(model.float(), samples, targets="labels")
    assert_blocks(statistics, rows, list(statistics.sizes))


def test_a_model_in_training_mode_gives_the_same_and_stays_as_it_was():
    model = tiny("bert").float()
    samples = text_samples("classification")
    before = collect_statistics(model, samples)
    model.train()
    model.bert.embeddings.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    after = collect_statistics(model, samples)
    assert torch.equal(before.blocks, after.blocks)
    assert all(module.training for module in model.modules())
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())


def test_repeats_bitwise():
    model, samples = tiny("gpt2").float(), samples_for("gpt2")
    first, second = (collect_statistics(model, samples, batch_size=2) for _ in range(2))
    assert torch.equal(first.blocks, second.blocks)


def test_a_loss_that_is_not_finite_names_its_batch():
    model = tiny("bert").float()
    model.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"batch 0 is not finite \(rows \["):
        collect_statistics(model, text_samples("classification"), batch_size=2)


def test_a_later_batch_that_is_not_finite_is_named_too():
    model = tiny("bert").float()
    samples = text_samples("classification")
    widths = [len(sample["input_ids"]) for sample in samples.features]
    shortest = min(range(len(widths)), key=widths.__getitem__)
    samples.features[shortest]["input_ids"][1] = 3  # a token that no other sample has
    model.bert.embeddings.word_embeddings.weight.data[3] = float("nan")
    last = len(samples.groups(2)) - 1
    with pytest.raises(NumericalError, match=rf"batch {last} is not finite \(rows \["):
        collect_statistics(model, samples, batch_size=2)


def test_labels_that_are_not_there_cannot_be_asked_for():
    with pytest.raises(DataError, match="no labels"):
        collect_statistics(
            tiny("bert").float(), text_samples("classification", labels=False), targets="labels"
        )


def test_two_classes_need_no_draw():
    """The square of one gradient is the expectation over both labels."""
    model = tiny("bert").float()
    samples = text_samples("classification", 6)
    found = collect_statistics(model, samples, targets="model")
    sites = find_sites(model)
    (batch,) = samples.batches(6, bucketed=False)
    batch.pop("sample_index")
    with torch.no_grad():
        p = model(**model_inputs(batch)).logits.softmax(-1).double()
    expected = torch.zeros_like(found.blocks, dtype=torch.float64)
    for label in (0, 1):
        labelled = replace(samples, labels=torch.full((6,), label))
        rows = expected_rows(model.double(), sites, labelled) * p[:, label, None].sqrt()
        model.float()
        blocks = [(g.T @ g).flatten() for g in rows.split([s.units for s in sites], dim=1)]
        expected += torch.cat(blocks)
    assert (found.blocks.double() - expected).abs().max() <= 2e-4 * expected.abs().max()
