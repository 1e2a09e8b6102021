"""What must hold whatever the numbers: symmetry, additivity, repeatability, failure in place."""

from __future__ import annotations

import pytest
import torch
from ops.cases import CASES, Case
from torch import Tensor

from fastprune import ops

_LARGEST = {
    (case.op, case.dtype): case for case in sorted(CASES, key=lambda case: sum(case.extents))
}


def _results(case: Case, device: torch.device) -> list[Tensor]:
    result = getattr(ops, case.op)(**case.arguments(device))
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.parametrize("case", list(_LARGEST.values()), ids=str)
def test_a_second_run_is_bitwise_equal(case: Case, device: torch.device) -> None:
    for first, second in zip(_results(case, device), _results(case, device), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("case", list(_LARGEST.values()), ids=str)
def test_threads_do_not_change_a_bit(case: Case) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _results(case, torch.device("cpu"))
        torch.set_num_threads(3)
        together = _results(case, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("width", [1, 47, 97, 200])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_is_symmetric_and_positive(
    width: int, stored: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    x = Case("gram", (2 * width + 5, width), stored).arguments(device)["x"]
    out = ops.gram(x, dtype=dtype)
    assert torch.equal(out, out.T)
    smallest = torch.linalg.eigvalsh(out.double()).min()
    assert smallest >= -2 * width * torch.finfo(torch.float32).eps * out.trace()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_accumulators_end_symmetric_whatever_they_held(
    rows: int, stored: torch.dtype, device: torch.device
) -> None:
    out = torch.randn(130, 130, dtype=torch.float64, device=device)
    x = torch.ones(rows, 130, dtype=stored, device=device)
    expected = out.triu() + ops.gram(x).triu()
    ops.gram(x, out=out)
    assert torch.equal(out.triu(), expected)
    assert torch.equal(out, out.T)


@pytest.mark.parametrize("op", ["fisher_outer", "gram"])
def test_batches_add_up(op: str, device: torch.device) -> None:
    case = Case(op, (300, 50, 13) if op == "fisher_outer" else (300, 63))
    arguments = case.arguments(device)
    rows = arguments.pop("grads" if op == "fisher_outer" else "x")
    function = getattr(ops, op)
    whole = function(rows, **arguments)
    split = function(rows[:113], **arguments)
    assert function(rows[113:], **arguments, out=split) is split
    # Two orders of one sum: twice the bound of a single one; the diagonal bounds the magnitudes.
    bound = 4 * 302 * torch.finfo(torch.float32).eps * whole.abs().max()
    assert (whole - split).abs().max() <= bound


def test_integers_sum_exactly(device: torch.device) -> None:
    x = torch.randint(-4, 5, (700, 100), device=device)
    assert torch.equal(ops.gram(x.bfloat16()), (x.T.cpu() @ x.cpu()).double().to(device))


def test_padding_is_never_read(device: torch.device) -> None:
    x = torch.randn(3, 8, 6, device=device)
    valid = torch.tensor([8, 3, 0], device=device)[:, None] > torch.arange(8, device=device)
    poisoned = x.masked_fill(~valid[..., None], float("nan"))
    packed = x[valid]
    lengths = torch.tensor([0, 8, 11, 11], device=device)
    padded_result = ops.mask_grad(poisoned, poisoned, 2, valid=valid)
    assert torch.equal(padded_result, ops.mask_grad(packed, packed, 2, offsets=lengths))
    assert torch.equal(padded_result[2], torch.zeros(3, device=device))
    for dtype in (torch.float32, torch.bfloat16):
        kept = ops.gram(packed.to(dtype))
        assert torch.equal(ops.gram(poisoned.to(dtype), valid=valid), kept)


def test_masks_of_any_integer_type(device: torch.device) -> None:
    x = torch.randn(2, 4, 6, device=device)
    valid = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], device=device)
    expected = ops.mask_grad(x, x, 3, valid=valid.bool())
    for dtype in (torch.int64, torch.uint8, torch.float32):
        assert torch.equal(ops.mask_grad(x, x, 3, valid=valid.to(dtype)), expected)
    # 256 is 0 in the low byte: a reinterpreted integer would lose it.
    assert torch.equal(ops.mask_grad(x, x, 3, valid=valid * 256), expected)


def test_every_half_converts_exactly(device: torch.device) -> None:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        halves = values.view(dtype).to(device)[None, None]
        result = ops.mask_grad(halves, torch.ones_like(halves), 1)
        torch.testing.assert_close(result, halves[0].float(), rtol=0, atol=0, equal_nan=True)


def _textbook(gradients: Tensor, mask: Tensor) -> Tensor:
    """Kwon et al. 2022 as published: gather gradient columns, recompute every norm."""
    order = (gradients**2).sum(0).argsort(stable=True).tolist()
    pruned = int((mask == 0).sum())
    members = order[:pruned]
    for unit in order[pruned:]:
        members.append(unit)
        costs = [
            float((gradients[:, [m for m in members if m != leaving]].sum(1) ** 2).sum())
            for leaving in members
        ]
        members.pop(costs.index(min(costs)))
    result = torch.ones_like(mask)
    result[members] = 0
    return result


@pytest.mark.parametrize("seed", range(6))
def test_rearrangement_is_the_textbook_loop(seed: int, device: torch.device) -> None:
    torch.manual_seed(seed)
    units = 24 + seed
    # Small integers: exact in every type, with plenty of ties.
    gradients = torch.randint(-2, 3, (10, units)).float()
    mask = (torch.rand(units) > 0.4).float()
    blocks = ops.fisher_outer(gradients.to(device), [units])
    actual = ops.greedy_rearrange(blocks, [units], mask.to(device)).cpu()
    assert torch.equal(actual, _textbook(gradients, mask))
    assert actual.sum() == mask.sum()


def test_rearrangement_leaves_full_and_empty_sites_alone(device: torch.device) -> None:
    sizes = [5, 4, 6]
    blocks = ops.fisher_outer(torch.randn(9, 15, device=device), sizes)
    masks = torch.tensor([1.0] * 5 + [0.0] * 4 + [1.0, 0.0] * 3, device=device)
    result = ops.greedy_rearrange(blocks, sizes, masks * 7)
    assert torch.equal(result[:9], masks[:9])
    assert result[9:].sum() == 3


@pytest.mark.parametrize("n", [1, 5, 64, 193, 450])
def test_failed_systems_fail_alone(n: int, device: torch.device) -> None:
    torch.manual_seed(n)
    good = torch.randn(n, 2 * n, dtype=torch.float64)
    good = good @ good.T
    pivot = n // 2
    indefinite, poisoned = good.clone(), good.clone()
    indefinite[pivot, pivot] = -1.0
    poisoned[n - 1, 0] = float("nan")
    systems = torch.cat([m.flatten() for m in (good, indefinite, poisoned, good, good)]).to(device)
    rhs = torch.randn(5 * n, 2, dtype=torch.float64, device=device)
    rhs[3 * n] = float("inf")
    x, info = ops.block_lstsq(systems, rhs, [n] * 5, 0.0)
    alone, _ = ops.block_lstsq(systems[: n * n], rhs[:n], [n], 0.0)
    assert info.tolist() == [0, pivot + 1, n, -1, 0]
    assert torch.equal(x[:n], alone)
    assert (x[n : 4 * n] == 0).all()
    assert x[4 * n :].isfinite().all()
    assert x[4 * n :].any()


def test_only_the_lower_triangle_is_read(device: torch.device) -> None:
    a = torch.randn(40, 80, dtype=torch.float64, device=device)
    a = a @ a.T
    rhs = torch.randn(40, dtype=torch.float64, device=device)
    expected, _ = ops.block_lstsq(a.flatten(), rhs, [40], 0.1)
    nan_above = a.tril() + torch.full_like(a, float("nan")).triu(1)
    nan_above = torch.where(torch.ones_like(a).tril().bool(), a, nan_above)
    actual, info = ops.block_lstsq(nan_above.flatten(), rhs, [40], 0.1)
    assert info.item() == 0
    assert torch.equal(actual, expected)


def test_tuning_system_is_the_least_squares_problem(device: torch.device) -> None:
    units, group, outputs = 4, 3, 7
    x = torch.randn(50, units * group, device=device)
    weight = torch.randn(outputs, units * group, device=device)
    target = torch.randn(50, outputs, dtype=torch.float64, device=device)
    a, b = ops.tuning_system(ops.gram(x), weight, x.double().T @ target, group)
    parts = torch.einsum(
        "tug,oug->uto",
        x.view(50, units, group).double(),
        weight.view(outputs, units, group).double(),
    ).flatten(1)
    tolerance = 4 * 256 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(a, parts @ parts.T, rtol=0, atol=tolerance * a.abs().max().item())
    torch.testing.assert_close(
        b, parts @ target.flatten(), rtol=0, atol=tolerance * b.abs().max().item()
    )
    assert torch.equal(a, a.T)


@pytest.mark.parametrize("damage", ["one", "diagonal", "elsewhere"])
def test_rearrangement_keeps_its_count_whatever_a_block_holds(damage: str) -> None:
    block = torch.ones(8, 8)
    if damage == "one":
        block[0, 0] = float("inf")
    elif damage == "diagonal":
        block.fill_diagonal_(float("inf"))
    else:
        block = torch.full((8, 8), -float("inf"))
        block.diagonal().copy_(torch.arange(1.0, 9.0))
    mask = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0])
    assert ops.greedy_rearrange(block.flatten(), [8], mask).sum() == 4
