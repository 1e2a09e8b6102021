"""The baselines compute what the operations compute. Small integers make all of it exact."""

from __future__ import annotations

import baselines
import torch
from torch import Tensor

from fastprune import ops

EPS64 = torch.finfo(torch.float64).eps


def integers(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).float()


def test_mask_grad():
    x, grad = integers(3, 5, 12), integers(3, 12, 5).mT.contiguous()
    for group in (1, 4):
        assert torch.equal(baselines.mask_grad(x, grad, group), ops.mask_grad(x, grad, group))


def test_gram():
    x = integers(7, 5)
    columns, valid = torch.tensor([4, 1, 2]), torch.arange(7) % 3 > 0
    out = torch.ones(3, 3, dtype=torch.float64)
    expected = ops.gram(x, columns=columns, valid=valid, out=out.clone())
    baselines.gram(x, columns, valid, out)
    assert torch.equal(out, expected)


def test_tuning_system():
    x, weight, cross = integers(9, 6), integers(4, 6), integers(6, 4).double()
    arguments = (ops.gram(x), weight, cross, 3)
    pairs = zip(baselines.tuning_system(*arguments), ops.tuning_system(*arguments), strict=True)
    assert all(torch.equal(theirs, ours) for theirs, ours in pairs)


def test_trajectory_distance():
    # One entry a row, so that unit rows and their products are exact.
    features = 3 * torch.eye(4)[torch.tensor([[0, 1, 2], [3, 3, 1]])]
    teacher = 2 * torch.eye(4)[:3]
    expected = ops.trajectory_distance(features, teacher)
    assert expected.tolist() == [0.0, 2.0]
    unit = baselines.unit_rows(teacher)
    plain = baselines.trajectory_distance(features, unit @ unit.T)
    careful = baselines.trajectory_distance_of_differences(features, unit)
    assert plain.tolist() == careful.tolist() == expected.tolist()


def test_every_way_to_solve():
    sizes, damping = [1, 4, 3], 0.5
    factors = [integers(n, n + 2).double() for n in sizes]
    systems = [f @ f.T + torch.eye(len(f)) for f in factors]
    rhs = integers(sum(sizes), 2).double()
    sides = list(rhs.split(sizes))
    expected, info = ops.block_lstsq(
        torch.cat([system.flatten() for system in systems]), rhs, sizes, damping
    )
    assert (info == 0).all()
    # Each way is backward stable (Higham 2002, theorem 10.4), and both sides may be off.
    condition = max(torch.linalg.cond(system) for system in systems)
    n = max(sizes)
    bound = 2 * 2 * n * (3 * n + 1) * EPS64 * condition * rhs.abs().max()

    def close(solution: Tensor, exact: Tensor) -> bool:
        return bool((solution - exact).abs().max() <= bound)

    for solution, exact in zip(
        baselines.cholesky_loop(systems, sides, damping), expected.split(sizes), strict=True
    ):
        assert close(solution, exact)
    largest, side, exact = systems[1], sides[1], expected.split(sizes)[1]
    for batched in (baselines.cholesky_batched, baselines.solve_batched):
        assert close(batched(largest[None], side[None], damping)[0], exact)

    # Padding changes the mean diagonal, hence the ridge: without it the solutions agree.
    padded = baselines.cholesky_batched(*baselines.pad_systems(systems, sides), 0.0)
    for i, (solution, n) in enumerate(
        zip(baselines.cholesky_loop(systems, sides, 0.0), sizes, strict=True)
    ):
        assert close(padded[i, :n], solution)
