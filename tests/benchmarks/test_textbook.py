"""The paper's way and ours are the same mathematics: only then is a ratio of times a speedup."""

from __future__ import annotations

import pytest
import textbook
import torch

from fastprune import ops

EPS32 = torch.finfo(torch.float32).eps
LSMR_TOLERANCE = 1e-6  # SciPy's default, both of its stopping rules


@pytest.mark.parametrize(("units", "rows", "pruned"), [(2, 3, 1), (37, 5, 20), (64, 300, 63)])
def test_the_greedy_loop_gives_the_masks_of_the_operation(units, rows, pruned):
    # Small integers: both sides are exact, and ties are frequent.
    generator = torch.Generator().manual_seed(units)
    grads = torch.randint(-2, 3, (rows, units), generator=generator).float()
    mask = torch.ones(units)
    mask[torch.randperm(units, generator=generator)[:pruned]] = 0.0
    expected = ops.greedy_rearrange(ops.fisher_outer(grads, [units]), [units], mask)
    assert torch.equal(textbook.greedy_rearrange(grads, mask), expected)


@pytest.mark.parametrize(("units", "group"), [(1, 1), (41, 1), (6, 5)])
def test_the_direct_rank_one_updates_remove_the_same_units(units, group):
    generator = torch.Generator().manual_seed(units)
    n = units * group
    x = torch.randn(4 * n, n, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(x.T @ x / len(x))
    weight = torch.randn(n, 9, generator=generator, dtype=torch.float64)
    expected_order, expected, info = ops.obs_greedy(inverse.flatten(), weight, [units], [group])
    assert info.item() == 0
    order, curve = textbook.obs_greedy(inverse, weight, group)
    assert torch.equal(order.int(), expected_order)
    # Two ways round a factorisation of n columns (Higham 2002, theorem 10.3).
    relative = 4 * (n + 2) * torch.finfo(torch.float64).eps * float(torch.linalg.cond(inverse))
    torch.testing.assert_close(curve, expected, rtol=relative, atol=0)


@pytest.mark.parametrize(("units", "group"), [(3, 4), (7, 1)])
def test_mask_tuning_gives_the_scales_of_the_operations(units, group):
    generator = torch.Generator().manual_seed(units)
    count, tokens, outputs, columns = 3, 160, 11, units * group
    weight = torch.randn(outputs, columns, generator=generator)
    x = torch.randn(count, tokens, columns, generator=generator)
    target = x @ weight.T + torch.randn(count, tokens, outputs, generator=generator)
    batches = list(zip(x, target, strict=True))
    tuned = (
        textbook.tune_filters(batches, weight)
        if group == 1
        else textbook.tune_heads(batches, weight, group)
    )

    rows, wanted = x.flatten(0, 1), target.flatten(0, 1)
    cross = rows.double().T @ wanted.double()
    a, b = ops.tuning_system(ops.gram(rows), weight, cross, group)
    solution, info = ops.block_lstsq(a.flatten(), b - a.sum(1), [units], 0.0)
    assert (info == 0).all()

    # LSMR stops at a residual of tolerance * (|b| + |A| |x|), and damps 1 / lambda to
    # lambda / (lambda^2 + 1); A and b are float32 sums of this many products.
    eigenvalues = torch.linalg.eigvalsh(a)
    condition = eigenvalues[-1] / eigenvalues[0]
    products = count * tokens * outputs * group
    relative = condition * (2 * LSMR_TOLERANCE + products * EPS32) + eigenvalues[0] ** -2
    assert (tuned - 1 - solution).norm() <= relative * (1 + solution.norm())
    assert relative < 0.1, "a bound that says nothing"
