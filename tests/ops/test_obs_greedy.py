"""What must hold of a removal order whatever the numbers, and what becomes of sites that fail."""

from __future__ import annotations

import bounds
import pytest
import torch
from torch import Tensor

from fastprune import ops

INFINITY, NAN = float("inf"), float("nan")


def _hessian(n: int, rows: int, seed: int = 0) -> Tensor:
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.T @ x / rows


def _weight(n: int, outputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, outputs, generator=generator, dtype=torch.float64)


def _least_error(h: Tensor, w: Tensor, kept: list[int]) -> Tensor:
    """Of all weights on the kept rows, by the normal equations."""
    best = torch.zeros_like(w)
    best[kept] = torch.linalg.lstsq(h[kept][:, kept], (h @ w)[kept]).solution
    return ((w - best) * (h @ (w - best))).sum()


@pytest.mark.parametrize(("units", "group"), [(1, 1), (37, 1), (70, 1), (12, 3), (4, 16), (2, 70)])
def test_the_curve_is_the_least_squares_error(units: int, group: int, device: torch.device) -> None:
    n = units * group
    h, w = _hessian(n, 3 * n), _weight(n, 11)
    inverse = torch.linalg.inv(h)
    order, curve, info = ops.obs_greedy(
        inverse.flatten().to(device), w.to(device), [units], [group]
    )
    assert info.item() == 0
    kept = list(range(units))
    expected = []
    for unit in order.tolist():
        kept.remove(unit)
        columns = [u * group + k for u in kept for k in range(group)]
        expected.append(_least_error(h, w, columns) if columns else (w * (h @ w)).sum())
    tolerance = 8 * (n + 2) * bounds.EPS64 * float(torch.linalg.cond(h))
    assert tolerance < 1e-9, "a bound that says nothing"
    torch.testing.assert_close(curve.cpu(), torch.stack(expected), rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_singular_inverses_give_an_order_all_the_same(
    dtype: torch.dtype, device: torch.device
) -> None:
    """Two pairs of equal inputs but for 1e-6: whoever stays can stand in for whoever goes."""
    n = 40
    h = _hessian(n, 3 * n)
    h[5], h[9] = h[20], h[33]
    h[:, 5], h[:, 9] = h[:, 20], h[:, 33]
    h[5, 5], h[9, 9] = h[20, 20], h[33, 33]
    inverse = torch.linalg.inv(h + 1e-6 * torch.eye(n, dtype=torch.float64)).to(dtype)
    order, curve, info = ops.obs_greedy(
        inverse.flatten().to(device), _weight(n, 8).to(device, dtype), [n], [1]
    )
    assert sorted(order.tolist()) == list(range(n))
    assert not curve.isnan().any()
    assert (curve.diff() >= 0).all()
    assert info.item() == 0 or curve[info.item() - 1 :].isinf().all()
    first = set(order[:2].tolist())
    assert len(first & {5, 20}) == len(first & {9, 33}) == 1


def test_of_equal_units_the_first_goes(device: torch.device) -> None:
    inverse = torch.ones(30, 30, dtype=torch.float64) + torch.eye(30)
    zeros = torch.zeros(30, 4, dtype=torch.float64, device=device)
    for group in (1, 2, 5):
        order, curve, info = ops.obs_greedy(
            inverse.flatten().to(device), zeros, [30 // group], [group]
        )
        assert order.tolist() == list(range(30 // group))
        assert (curve == 0).all()
        assert info.item() == 0


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("row", "column", "value"), [(0, 0, -1.0), (0, 0, NAN), (0, 0, INFINITY), (-1, 0, NAN)]
)
def test_a_unit_that_cannot_go_stays_to_the_end(
    group: int, dtype: torch.dtype, row: int, column: int, value: float, device: torch.device
) -> None:
    """Damage at (row, column), counted from the first column of unit 4."""
    units, bad = 80, 4
    n = units * group
    inverse = torch.linalg.inv(_hessian(n, 3 * n)).to(dtype)
    good = inverse.clone()
    at = bad * group
    inverse[at + row % n if row == 0 else row, at + column] = value
    weight = _weight(n, 5).to(dtype)
    order, curve, info = ops.obs_greedy(
        torch.cat([good.flatten(), inverse.flatten(), good.flatten()]).to(device),
        weight.repeat(3, 1).to(device), [units] * 3, [group] * 3,
    )  # fmt: skip
    alone = ops.obs_greedy(good.flatten().to(device), weight.to(device), [units], [group])
    for part in (0, 2):
        assert torch.equal(order.view(3, -1)[part], alone[0])
        assert torch.equal(curve.view(3, -1)[part], alone[1])
    removed = order.view(3, -1)[1]
    errors = curve.view(3, -1)[1]
    assert info[0] == info[2] == 0
    # A bad entry between two units ends one of them, whichever is left when the other has gone.
    assert info[1] == units
    assert removed[-1] == bad if row == 0 else removed[-1] in (bad, units - 1)
    assert sorted(removed.tolist()) == list(range(units))
    assert errors[:-1].isfinite().all()
    assert errors[-1].isinf()


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("value", [NAN, INFINITY, 1e200])
def test_a_site_without_any_usable_unit(value: float, group: int, device: torch.device) -> None:
    """A cost that is no number, or none that is finite, is no cost."""
    inverse = torch.eye(6 * group, dtype=torch.float64, device=device)
    weight = torch.full((6 * group, 3), value, dtype=torch.float64, device=device)
    order, curve, info = ops.obs_greedy(inverse.flatten(), weight, [6], [group])
    assert order.tolist() == list(range(6))
    assert curve.isinf().all()
    assert info.item() == 1


def test_inputs_stay_and_only_the_lower_triangle_is_read(device: torch.device) -> None:
    sizes, groups = [70, 5], [1, 4]
    inverses = [torch.linalg.inv(_hessian(n, 3 * n)) for n in (70, 20)]
    weight = _weight(90, 6).to(device)
    whole = torch.cat([p.flatten() for p in inverses]).to(device)
    lower = [torch.full_like(p, NAN).triu(1) + p.tril() for p in inverses]
    lower = [torch.where(torch.ones_like(p).tril() > 0, p, torch.full_like(p, NAN)) for p in lower]
    nan_above = torch.cat([p.flatten() for p in lower]).to(device)
    before = nan_above.clone(), weight.clone()
    expected = ops.obs_greedy(whole, weight, sizes, groups)
    actual = ops.obs_greedy(nan_above, weight, sizes, groups)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert torch.equal(weight, before[1])
    torch.testing.assert_close(nan_above, before[0], rtol=0, atol=0, equal_nan=True)
