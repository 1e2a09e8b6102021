"""Every native kernel against its float64 reference, over the whole case list."""

from __future__ import annotations

import os

import bounds
import pytest
import torch
from ops.cases import CASES, Case
from torch import Tensor

from fastprune import ops
from fastprune.ops import reference


def _of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [c for c in CASES if c.op in names], ids=str)


def _assert_within(actual: Tensor, exact: Tensor, bound: Tensor) -> None:
    assert actual.shape == exact.shape
    excess = (actual.double() - exact).abs() - bound
    assert not excess.isnan().any()
    assert (excess <= 0).all(), f"{excess.max():.3g} beyond the bound"


def test_the_native_library_runs() -> None:
    if os.environ.get("FASTPRUNE_NATIVE") == "off":
        pytest.skip("FASTPRUNE_NATIVE=off")
    status = ops.native_status()
    assert status["native"], status["reason"]
    assert status["cpu"] == "native"
    assert status["build"]["torch_target"] == "2.11"


def test_cuda_runs_native_kernels() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: these tests run on the CPU alone")
    assert ops.native_status()["cuda"] == "native"


@_of("mask_grad", "fisher_outer", "gram")
def test_sums_of_products(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    actual = getattr(ops, case.op)(**arguments)
    assert actual.dtype == arguments.get("dtype", torch.float32)
    _assert_within(actual, *getattr(bounds, case.op)(**arguments))


@_of("trajectory_distance")
def test_trajectory_distance(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    actual = ops.trajectory_distance(**arguments)
    assert actual.dtype == torch.float64
    _assert_within(actual, *bounds.trajectory_distance(**arguments))


@_of("tuning_system")
def test_tuning_system(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    results = ops.tuning_system(**arguments)
    for actual, exact, bound in zip(results, *bounds.tuning_system(**arguments), strict=True):
        assert actual.dtype == arguments["gram"].dtype
        _assert_within(actual, exact, bound)


@_of("greedy_rearrange")
def test_greedy_rearrange(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    actual = ops.greedy_rearrange(**arguments)
    assert torch.equal(actual, reference.greedy_rearrange(**arguments))


@_of("block_lstsq")
def test_block_lstsq_is_backward_stable(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    x, info = ops.block_lstsq(**arguments)
    assert x.dtype == case.dtype
    assert info.dtype == torch.int32
    assert (info == 0).all()
    sizes = arguments["sizes"]
    blocks = arguments["systems"].double().split([n * n for n in sizes])
    for n, a, b, solution in zip(
        sizes, blocks, arguments["rhs"].double().split(sizes), x.double().split(sizes), strict=True
    ):
        if n == 0:
            continue
        a = a.view(n, n)
        a = a + arguments["damping"] * a.diagonal().mean() * torch.eye(n).to(a)
        size = a.norm() * solution.norm(dim=0)
        # Cholesky and two triangular solves (Higham 2002, theorem 10.4), then the stored type.
        bound = 2 * (3 * n + 1) * bounds.EPS64 * size + torch.finfo(case.dtype).eps * size
        assert ((a @ solution - b).norm(dim=0) <= bound).all()


@_of("obs_greedy")
@pytest.mark.usefixtures("one_thread")
def test_obs_greedy_takes_the_cheapest_unit(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    order, curve, info = ops.obs_greedy(**arguments)
    assert order.dtype == info.dtype == torch.int32
    assert curve.dtype == case.dtype
    assert (info == 0).all()
    for site in bounds.obs_sites(**arguments, order=order, curve=curve):
        bounds.check_removals(*site)
    exact_order, exact_curve, _ = reference.obs_greedy(**arguments)
    if "tied" in case.traits:
        assert torch.equal(order, exact_order)
        assert torch.equal(curve.double(), exact_curve)
    elif case.extents[0] > 2:  # with fewer outputs a cost may be as small as rounding
        relative = 1e-3 if case.dtype == torch.float32 else 1e-6
        torch.testing.assert_close(curve.double(), exact_curve, rtol=relative, atol=0)


@_of("path_step")
def test_path_step(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    exact, limits, unsure = bounds.path_step(**case.arguments(device))
    state = ops.path_step(**arguments)
    for name, moved in zip(("mask", "dual", "gate", "crossing"), state, strict=True):
        assert moved is arguments[name]
    for moved, expected, bound in zip(state[:3], exact[:3], limits[:3], strict=True):
        assert moved.dtype == case.dtype
        _assert_within(moved, expected, bound)
    crossing, expected = state[3], exact[3]
    if crossing.numel() > 1000:
        before = case.arguments(device)["crossing"]
        assert (before.isinf() & expected.isfinite()).sum() > 50  # the case has something to say
        assert expected.isinf().sum() > 50
    assert (unsure | (crossing.isinf() == expected.isinf())).all()
    both = crossing.isfinite() & expected.isfinite()
    _assert_within(crossing[both], expected[both], limits[3][both])


_OPCHECK_CASES = [
    Case("mask_grad", (2, 5, 3, 4), traits=("valid",)),
    Case("mask_grad", (2, 5, 3, 4), torch.bfloat16, ("packed",)),
    Case("fisher_outer", (9, 3, 0, 5)),
    Case("greedy_rearrange", (2, 3, 5)),
    Case("gram", (9, 5)),
    Case("gram", (9, 5), torch.float16, ("valid", "columns", "sum32")),
    Case("tuning_system", (3, 2, 5)),
    Case("block_lstsq", (2, 3, 5), torch.float64),
    Case("obs_greedy", (2, 3, 5, 4, 1), torch.float64),
    Case("trajectory_distance", (2, 5, 3)),
    Case("path_step", (2, 5), torch.float64),
]


@pytest.mark.parametrize("case", _OPCHECK_CASES, ids=str)
def test_opcheck(case: Case, device: torch.device) -> None:
    a = case.arguments(device)
    positional = {
        "mask_grad": lambda: (a["x"], a["grad"], a["group"], a.get("valid"), a.get("offsets")),
        "fisher_outer": lambda: (torch.zeros(34, device=device), a["grads"], a["sizes"]),
        "greedy_rearrange": lambda: (a["blocks"], a["sizes"], a["masks"]),
        "gram": lambda: (ops.gram(**a), a["x"], a.get("columns"), a.get("valid")),
        "tuning_system": lambda: (a["gram"], a["weight"], a["cross"], a["group"]),
        "block_lstsq": lambda: (a["systems"], a["rhs"], a["sizes"], a["damping"]),
        "obs_greedy": lambda: (a["inverse"], a["weight"], a["sizes"], a["groups"]),
        "trajectory_distance": lambda: (ops.trajectory_distance(**a), a["features"], a["teacher"]),
        "path_step": lambda: tuple(
            a[name]
            for name in (
                *("mask", "dual", "gate", "crossing", "gradient", "threshold"),
                *("kappa", "alpha", "nu", "step"),
            )
        ),
    }[case.op]()
    torch.library.opcheck(getattr(torch.ops.fastprune, case.op).default, positional)
