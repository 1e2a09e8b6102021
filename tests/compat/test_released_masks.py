"""Gradients, rearrangement and the solvers of the drop-in."""

from __future__ import annotations

import pytest
import released
import torch
from tiny_models import tiny
from tiny_samples import text_samples

from fastprune.compat.retraining_free import (
    closed_form_solver,
    collect_mask_grads,
    compute_fisher_info,
    greedy_rearrange,
    lsmr_cupy_solver,
    rearrange_mask,
)
from fastprune.errors import DataError, FastpruneError, NumericalError


def masks(model, heads=None, filters=None):
    config = model.config
    layers, units = config.num_hidden_layers, config.num_attention_heads
    if heads is None:
        heads = torch.ones(layers, units)
    if filters is None:
        filters = torch.ones(layers, 37)
    return heads, filters


def batches_of(samples):
    """What a DataLoader would yield: nothing but what the model takes."""
    return [
        {key: value for key, value in batch.items() if key != "sample_index"}
        for batch in samples.batches(3)
    ]


def autograd_rows(model, heads, filters, batches):
    """The definition: masks as leaves, the mean loss of a mini-batch, and autograd."""
    view = released.Bert(model, batches)
    rows = []
    for batch in batches:
        leaves = [m.detach().clone().double().requires_grad_() for m in (heads, filters)]
        with view.masked(*leaves):
            rows.append(torch.autograd.grad(model(**batch).loss, leaves))
    return [torch.stack(part) for part in zip(*rows, strict=True)]


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_gradients_are_those_of_the_mean_loss_of_each_batch(frozen, dense):
    model = tiny("bert")
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    batches = batches_of(text_samples("classification"))
    heads, filters = masks(model)
    if not dense:
        heads[1, 2], heads[2] = 0, 0.7
        filters[0, ::2] = 0
    before = heads.clone()
    found = collect_mask_grads(model, heads, filters, iter(batches))
    expected = autograd_rows(model, heads, filters, batches)
    for grads, wanted in zip(found, expected, strict=True):
        assert grads.shape == wanted.shape
        assert grads.dtype == torch.float32
        # ops.mask_grad takes float32, so the activations of the float64 model round to it.
        torch.testing.assert_close(grads.double(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(heads, before)
    assert not heads.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fisher_information_sums_squares():
    grads = torch.tensor([[[1.0, 2.0]], [[3.0, -4.0]]])
    assert torch.equal(compute_fisher_info(grads), torch.tensor([[10.0, 20.0]]))


def test_batches_without_labels_are_refused():
    model = tiny("bert").float()
    batches = batches_of(text_samples("classification", labels=False))
    with pytest.raises(DataError, match="labels"):
        collect_mask_grads(model, *masks(model), batches)
    with pytest.raises(DataError, match="no mini-batches"):
        collect_mask_grads(model, *masks(model), [])


def test_masks_of_another_model_are_refused():
    model = tiny("bert").float()
    with pytest.raises(FastpruneError, match=r"\[3, 5\] does not fit"):
        collect_mask_grads(model, *masks(model, heads=torch.ones(3, 5)), [])


@pytest.mark.parametrize("ties", [False, True])
def test_rearrangement_is_the_original_one(grads, ties):
    changed = 0
    for seed in range(15):
        _, filters = grads(seed, ties=ties)
        generator = torch.Generator().manual_seed(seed)
        mask = (torch.rand(3, 10, generator=generator) < 0.6).float()
        mask[0] = seed % 2  # nothing kept, or nothing pruned
        before = mask.clone()
        found = rearrange_mask(mask, filters)
        expected = torch.stack(
            [released.rearrange(row, filters[:, i]) for i, row in enumerate(mask)]
        )
        assert torch.equal(found, expected)
        assert torch.equal(greedy_rearrange(mask[1], filters[:, 1]), expected[1])
        assert torch.equal(mask, before)
        changed += int((found != mask).sum())
    assert changed > 20


def test_rearrangement_of_a_wide_layer_is_the_original_one():
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(16, 1, 300, generator=generator) * torch.rand(300, generator=generator)
    mask = (torch.arange(300) % 2).float()[None]
    assert torch.equal(rearrange_mask(mask, grads)[0], released.rearrange(mask[0], grads[:, 0]))


def test_rearrangement_refuses_gradients_of_other_units():
    with pytest.raises(DataError, match="do not belong to a mask"):
        rearrange_mask(torch.ones(2, 5), torch.ones(3, 2, 4))


def system(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, n, generator=generator)
    return rows.T @ rows, torch.randn(n, generator=generator)


@pytest.mark.parametrize("n", [1, 2, 13])
def test_closed_form_solves(n):
    a, b = system(n)
    x = closed_form_solver(a, b)
    assert x.dtype == b.dtype
    torch.testing.assert_close(a.double() @ x.double(), b.double(), rtol=1e-4, atol=1e-4)


def test_closed_form_refuses_singular_systems():
    with pytest.raises(NumericalError, match="singular"):
        closed_form_solver(torch.zeros(3, 3), torch.ones(3))


def test_lsmr_solves_the_damped_system_around_one():
    a, b = system(9)
    x, success = lsmr_cupy_solver(a, b)
    assert success
    a, b = a.double(), b.double()
    values, vectors = torch.linalg.eigh(a)
    damped = vectors @ ((values / (values.square() + 1)) * (vectors.T @ (b - a.sum(1))))
    # LSMR stops at a relative residual of 1e-6, times a condition of about 100.
    torch.testing.assert_close(x.double(), 1 + damped, rtol=0, atol=1e-3)


def test_one_unknown_is_solved_where_the_original_crashes():
    x, success = lsmr_cupy_solver(torch.tensor([[4.0]]), torch.tensor([6.0]))
    assert success
    assert x.tolist() == [1.5]


def test_lsmr_says_when_it_does_not_converge():
    x, success = lsmr_cupy_solver(torch.full((3, 3), float("nan")), torch.ones(3))
    assert not success
    assert x.shape == (3,)
