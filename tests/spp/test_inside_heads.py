"""Solution paths over dimensions inside heads: their losses, their slopes and their costs."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

from fastprune import collect_statistics
from fastprune.calibration.divergence import Divergence
from fastprune.data.samples import model_inputs
from fastprune.spp import FISHER_STEPS, FisherLoss, divergence_gradient, entry_order
from fastprune.spp.order import NU
from fastprune.structure import Site, find_inner_sites

FAMILIES = ["bert", "distilbert", "vit", "opt"]


def draw(units: int) -> torch.Tensor:
    return torch.rand(1, units, generator=torch.Generator().manual_seed(0))


def scaled_weights(model, sites: list[Site], row: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights and biases whose rows are scaled as the masks say: of queries, values, filters."""
    scaled = {}
    for site, mask in zip(sites, row.split([site.units for site in sites]), strict=True):
        path, rows = site.gates[0], mask.repeat(site.heads)
        module = model.get_submodule(path)
        scaled[f"{path}.weight"] = module.weight.detach() * rows[:, None]
        scaled[f"{path}.bias"] = module.bias.detach() * rows
    return scaled


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_those_of_scaled_weights(family: str, shared: bool) -> None:
    """At fractional masks, by autograd through weights: no hook takes part."""
    model, samples = tiny(family).double(), samples_for(family)
    sites = find_inner_sites(model, shared=shared)
    masks = draw(sum(site.units for site in sites))
    with divergence_gradient(model, sites, samples, batch_size=len(samples)) as gradient:
        found = gradient(masks)[0].double()

    divergence = Divergence(samples.task, 0, temperature=1.0)
    batch = samples.collate(list(range(len(samples))))
    row = masks[0].double().requires_grad_()
    outputs = torch.func.functional_call(
        model, scaled_weights(model, sites, row), (), model_inputs(batch)
    )
    dense = divergence.prediction(model(**model_inputs(batch)), batch)
    theirs = tuple(x.detach() for x in dense)
    divergence.between(divergence.prediction(outputs, batch), theirs, batch).mean().backward()
    # Only the masks' own gradients are float32.
    atol = 4 * 2**-23 * float(row.grad.abs().max())
    torch.testing.assert_close(found, row.grad, rtol=0, atol=atol)


@pytest.mark.parametrize("shared", [False, True])
def test_to_second_order_the_divergence_is_the_fisher_loss(shared: bool) -> None:
    """Of every kind by itself: slopes of queries and keys are smaller than those of others."""
    model, samples = tiny("bert").float(), text_samples("classification", 16)
    sites = find_inner_sites(model, shared=shared)
    rows = collect_statistics(
        model, samples, sites=sites, mask_gradients=True, mask_fisher=False,
        output_fisher=False, input_moments=False,
    ).gradient_rows()  # fmt: skip
    direction = draw(rows.shape[1])
    expected = FisherLoss(rows).gradient(1 - direction)
    size = 2.0**-6
    with divergence_gradient(model, sites, samples, batch_size=16) as gradient:
        near, nearer = (gradient(1 - s * direction) / s for s in (size, size / 4))
    for kind in ("qk", "v", "ffn"):
        of_kind = torch.cat([torch.full((site.units,), site.kind == kind) for site in sites])
        wanted = expected[0, of_kind]
        errors = [float((g[0, of_kind] - wanted).abs().max()) for g in (near, nearer)]
        # The third order falls with the distance, here by four; rounding keeps it from falling
        # so far.
        assert errors[1] < errors[0] / 2
        assert errors[1] < 0.1 * float(wanted.abs().max())


@pytest.mark.parametrize("shared", [False, True])
def test_independent_units_of_all_kinds_enter_by_curvature_and_cost(shared: bool) -> None:
    """A mask at rest is h / (h + 1 / nu), so its dual exceeds c lambda at c lambda (nu + 1 / h)."""
    sites = find_inner_sites(tiny("bert"), shared=shared)[:3]
    units = sum(site.units for site in sites)
    costs = torch.cat(
        [torch.full((site.units,), float(site.weights_per_unit)) for site in sites]
    ).double()
    assert len(set(costs.tolist())) == (2 if shared else 1)
    # Within a factor of ten, so that all of them enter, and in no order of their own.
    shuffled = torch.randperm(units, generator=torch.Generator().manual_seed(0))
    curvatures = torch.linspace(0.1, 1, units, dtype=torch.float64)[shuffled]
    rows = (units * curvatures).sqrt().diag()
    fisher = FisherLoss(rows)
    nu = NU / fisher.curvature
    times = costs * (nu + 1 / curvatures)
    order = entry_order(fisher.gradient, fisher, sites, steps=FISHER_STEPS)
    assert torch.equal(order, times.argsort())
