"""Gradients of the masked model's divergence, against weights scaled in a model's copy."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

from fastprune import collect_statistics, find_sites
from fastprune.calibration.divergence import Divergence
from fastprune.data.samples import model_inputs
from fastprune.spp import FisherLoss, divergence_gradient


def draw(units: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, units, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "gpt2", "llama", "vit"])
def test_they_are_those_of_scaled_weights(family: str) -> None:
    """A mask on the input of a projection is a scale on columns of its weights."""
    model, samples = tiny(family).double(), samples_for(family)
    sites = find_sites(model)
    units = [site.units for site in sites]
    masks = draw(sum(units))
    with divergence_gradient(model, sites, samples, batch_size=len(samples)) as gradient:
        found = gradient(masks)

    divergence = Divergence(samples.task, 0, temperature=1.0)
    batch = samples.collate(list(range(len(samples))))

    def loss(row: torch.Tensor) -> torch.Tensor:
        scaled = {}
        for site, mask in zip(sites, row.split(units), strict=True):
            module = model.get_submodule(site.name)
            columns = mask.repeat_interleave(site.group)
            # GPT-2's projections are stored the other way around.
            turned = type(module).__name__ == "Conv1D"
            weight = module.weight.detach()
            name = f"{site.name}.weight"
            scaled[name] = weight * (columns[:, None] if turned else columns)
        outputs = torch.func.functional_call(model, scaled, (), model_inputs(batch))
        dense = model(**model_inputs(batch))
        theirs = tuple(x.detach() for x in divergence.prediction(dense, batch))
        return divergence.between(divergence.prediction(outputs, batch), theirs, batch).mean()

    for row, got in zip(masks, found, strict=True):
        row = row.double().requires_grad_()
        (expected,) = torch.autograd.grad(loss(row), row)
        # Only the masks' own gradients are float32.
        torch.testing.assert_close(
            got.double(), expected, rtol=0, atol=4 * 2**-23 * float(expected.abs().max())
        )


def test_to_second_order_it_is_the_fisher_loss() -> None:
    """Of classes, two of them, whose Fisher information needs no draw."""
    model, samples = tiny("bert").float(), text_samples("classification", 16)
    sites = find_sites(model)
    rows = collect_statistics(model, samples).gradient_rows()
    direction = draw(rows.shape[1])
    expected = FisherLoss(rows).gradient(1 - direction)
    size = 2.0**-6
    with divergence_gradient(model, sites, samples, batch_size=16) as gradient:
        assert gradient(torch.ones_like(direction)).abs().max() <= 1e-6 * expected.abs().max()
        near, nearer = (gradient(1 - s * direction) / s for s in (size, size / 4))
    errors = [float((g - expected).abs().max() / expected.abs().max()) for g in (near, nearer)]
    # The third order falls with the distance, here by four; rounding keeps it from falling so far.
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.1


def test_rounds_see_every_batch_once_in_an_order_of_their_own(monkeypatch) -> None:
    model, samples = tiny("bert").float(), text_samples("classification", 12)
    seen = []
    collate = type(samples).collate
    monkeypatch.setattr(
        type(samples), "collate", lambda self, p: (seen.append(tuple(p)), collate(self, p))[1]
    )
    sites = find_sites(model)
    ones = torch.ones(1, sum(site.units for site in sites))
    with divergence_gradient(model, sites, samples, batch_size=2) as gradient:
        for _ in range(18):
            gradient(ones)
    rounds = [seen[:6], seen[6:12], seen[12:]]
    for of_round in rounds:
        assert sorted(position for batch in of_round for position in batch) == list(range(12))
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]


def test_the_model_is_left_as_it_was() -> None:
    model, samples = tiny("bert").float().train(), text_samples("classification")
    model.classifier.weight.requires_grad_(False)
    sites = find_sites(model)
    flags = [p.requires_grad for p in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with divergence_gradient(model, sites, samples) as gradient:
        gradient(torch.zeros(1, sum(site.units for site in sites)))
    assert model.training
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())
