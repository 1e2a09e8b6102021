"""Scores of units against autograd through explicit masks, and against direct sums."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from tiny_models import DECODERS, FAMILIES, random_masks, tiny
from tiny_samples import samples_for, text_samples

from fastprune import compact, find_sites
from fastprune.calibration.divergence import Divergence
from fastprune.data.samples import model_inputs
from fastprune.errors import NumericalError
from fastprune.kprune import Reference
from fastprune.structure import get_projection
from fastprune.structure.probe import SiteProbe


@pytest.fixture(autouse=True)
def mini_batches(monkeypatch):
    monkeypatch.setattr("fastprune.kprune.scores.MINI_BATCH", 3)


def part_pruned(model):
    """The model as it is half-way: the first layer has been dealt with, the others are whole."""
    sites = find_sites(model)
    masks = random_masks(sites)
    student = compact(model, {site.name: masks[site.name] for site in sites[:2]})
    return student, find_sites(student)[2:]


def by_unit(columns, sites):
    """Means over each unit's columns."""
    parts = columns.split([site.columns for site in sites])
    return torch.cat([p.view(-1, s.group).mean(1) for p, s in zip(parts, sites, strict=True)])


def gradients(model, sites, samples, loss):
    """d loss / d column's mask of each sample alone, unpadded: float64 [samples, columns]."""
    rows = []
    for i in range(len(samples)):
        (batch,) = samples.select([i]).batches(1)
        masks = [torch.ones(s.columns, dtype=torch.float64).requires_grad_() for s in sites]
        with ExitStack() as stack:
            for site, mask in zip(sites, masks, strict=True):
                handle = model.get_submodule(site.name).register_forward_pre_hook(
                    lambda _, args, mask=mask: (args[0] * mask, *args[1:])
                )
                stack.callback(handle.remove)
            found = loss(model(**model_inputs(batch)), batch, samples.ids[i])
        rows.append(torch.cat(torch.autograd.grad(found.sum(), masks)))
    return torch.stack(rows)


def close(ours, theirs):
    # float32 activations against float64: c * tokens * width * eps of the largest.
    return (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_predictive_knowledge_is_the_mean_square_over_mini_batches(family):
    model, samples = tiny(family).float(), samples_for(family)
    if family == "roberta":
        # Its spans depend on so little that gradients in float32 would be rounding.
        model.qa_outputs.weight.data.mul_(300)
    student, sites = part_pruned(model)
    reference = Reference(model, samples, batch_size=2)
    found = reference.score(student, sites).predictive
    model.double(), student.double()
    divergence = Divergence(samples.task, 0, temperature=2.0)

    def loss(outputs, batch, _):
        with torch.no_grad():
            theirs = divergence.prediction(model(**model_inputs(batch)), batch)
        return divergence.between(divergence.prediction(outputs, batch), theirs, batch)

    rows = gradients(student, sites, samples, loss)
    means = torch.stack([rows[i : i + 3].mean(0) for i in range(0, len(samples), 3)])
    expected = by_unit(means.square().sum(0) / (2 * len(samples)), sites)
    assert expected.max() > 0
    assert close(found, expected)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "gpt2", "vit"])
def test_an_unchanged_model_is_scored_by_curvature(family):
    model, samples = tiny(family).float(), samples_for(family)
    sites = find_sites(model)
    reference = Reference(model, samples, batch_size=2, seed=4)
    found = reference.scores.predictive
    # What the method as published would look at is rounding.
    assert reference.score(model, sites).predictive.max() < 1e-6 * found.max()
    model.double()
    divergence = Divergence(samples.task, 4, temperature=2.0)
    rows = gradients(
        model,
        sites,
        samples,
        lambda out, batch, i: divergence.at_itself(out, batch, torch.tensor([i])),
    )
    assert close(found, by_unit(rows.square().mean(0) / 2, sites))


@pytest.mark.parametrize("family", FAMILIES)
def test_representative_knowledge_is_what_columns_add_to_the_output(family):
    model, samples = tiny(family).float(), samples_for(family)
    student, sites = part_pruned(model)
    found = Reference(model, samples, batch_size=4).score(student, sites).representative
    expected = []
    for site in sites:
        weight, _ = get_projection(student, site)
        rows = []
        for i in range(len(samples)):
            (batch,) = samples.select([i]).batches(1)
            with SiteProbe(student, site) as probe, torch.no_grad():
                student(**model_inputs(batch))
            rows.append(probe.input.flatten(0, -2))
        x = torch.cat(rows).double()
        # Each column's contribution to each output, for each token.
        columns = (x[:, None, :] * weight.double()[None]).square().mean((0, 1))
        expected.append(columns.view(site.units, site.group).mean(1))
    assert close(found, torch.cat(expected))


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_batches_make_no_difference(family):
    model, samples = tiny(family).float(), samples_for(family)
    student, sites = part_pruned(model)
    references = [Reference(model, samples, batch_size=size) for size in (1, 5)]
    one, many = (reference.score(student, sites) for reference in references)
    assert close(one.predictive, many.predictive)
    assert close(one.representative, many.representative)
    assert close(references[0].scores.predictive, references[1].scores.predictive)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_predictions_that_do_not_fit_into_memory_are_computed_again(family, monkeypatch):
    model, samples = tiny(family).float(), samples_for(family)
    student, sites = part_pruned(model)
    expected = Reference(model, samples, batch_size=3).score(student, sites)
    monkeypatch.setattr("fastprune.kprune.reference.trace_bytes", lambda device: 0)
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    reference = Reference(model.train(), samples, batch_size=3)
    first = len(runs)
    found = reference.score(student, sites)
    handle.remove()
    assert len(runs) == 2 * first > 0
    assert torch.equal(found.predictive, expected.predictive)


@pytest.mark.parametrize("family", ["bert", *DECODERS])
def test_models_are_left_as_they_were(family):
    model, samples = tiny(family).float().train(), samples_for(family)
    student, sites = part_pruned(model)
    parameter = next(student.parameters()).requires_grad_(False)
    caches = [getattr(m.config, "use_cache", None) for m in (model, student)]
    Reference(model, samples).score(student, sites)
    for module in [*model.modules(), *student.modules()]:
        assert module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert [getattr(m.config, "use_cache", None) for m in (model, student)] == caches
    assert [p for p in student.parameters() if not p.requires_grad] == [parameter]
    assert all(p.grad is None for p in student.parameters())


def test_scores_that_are_not_finite_name_the_site():
    model = tiny("bert").float()
    samples = text_samples("classification")
    model.bert.encoder.layer[1].intermediate.dense.bias.data[0] = float("inf")
    with pytest.raises(NumericalError, match=r"layer\.\d\..*not finite"):
        Reference(model, samples)
