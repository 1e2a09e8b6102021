"""Every native kernel against its float64 reference, over the whole case list."""

from __future__ import annotations

import math
import os

import bounds
import pytest
import torch
from ops.cases import CASES, Case
from torch import Tensor

from fastprune import ops
from fastprune.ops import reference

LN100 = math.log(100)
"""What CoFi clamps alpha at."""


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


@_of("hard_concrete")
def test_hard_concrete(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    drawn = ops.hard_concrete(**arguments)
    exact, limits, unsure = bounds.hard_concrete(**arguments)
    assert [x.dtype for x in drawn] == [
        *[case.dtype] * 2, torch.float64, torch.float64, case.dtype,
    ]  # fmt: skip
    for found, expected, bound in zip(drawn, exact, limits, strict=True):
        if found is drawn.slopes:
            found, expected, bound = found[~unsure], expected[~unsure], bound[~unsure]
        _assert_within(found, expected, bound)
    if drawn.gates.numel() > 1000:  # the case has something to say: open, closed and in between
        counts = [(drawn.gates == end).sum() for end in (0, 1)]
        assert min(*counts, drawn.gates.numel() - sum(counts)) > 50


def test_hard_concrete_against_the_published_form(device: torch.device) -> None:
    """CoFi's sparsity over the outer product of hidden and other gates, differentiated by torch;
    gates by the definition of their distribution."""
    case = Case("hard_concrete", (4, 31, 4, 29), torch.float64, ("sublayers", "hidden"))
    given = case.arguments(device)
    drawn = ops.hard_concrete(**given)
    alpha = given["alpha"].clone().requires_grad_()
    noise = given["noise"].clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((noise.log() - (-noise).log1p() + alpha) / (2 / 3))
    gates = (s * (1.1 + 0.1) - 0.1).clamp(0, 1)
    # P(gate > 0) from the distribution function at 0.
    open_ = 1 - torch.sigmoid(2 / 3 * math.log(0.1 / 1.1) - alpha)
    *units, sublayers, hidden = open_.split([*given["sizes"], 4, 33])
    kept = sum(
        torch.outer(hidden, share / 33 * sublayer * part / len(part)).sum()
        for share, sublayer, part in zip(given["shares"], sublayers, units, strict=True)
    )
    torch.testing.assert_close(drawn.gates, gates.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(drawn.sparsity, (1 - kept).detach(), rtol=1e-12, atol=1e-14)
    (slopes,) = torch.autograd.grad(gates.sum(), alpha, retain_graph=True)
    (sparsity_slopes,) = torch.autograd.grad(1 - kept, alpha)
    torch.testing.assert_close(drawn.slopes, slopes, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(drawn.sparsity_slopes, sparsity_slopes, rtol=1e-9, atol=1e-16)


def test_hard_concrete_has_the_published_values(device: torch.device) -> None:
    """Of the released CoFi: probabilities, stretched values, and the sparsity at fresh gates."""

    def drawn(alpha: float, u: float) -> ops.DrawnGates:
        one = torch.ones(1, dtype=torch.float64, device=device)
        return ops.hard_concrete(alpha * one, u * one, [1], one)

    for alpha, p in ((0.0, 0.83182), (1.0, 0.93077), (LN100, 0.99798), (-LN100, 0.04713)):
        assert float(drawn(alpha, 0.5).open[0]) == pytest.approx(p, abs=5e-6)
    assert [float(drawn(0.0, u).gates) for u in (0.1, 0.5, 0.9)] == pytest.approx([0, 0.5, 1])
    evenly = (torch.arange(10_000, dtype=torch.float64, device=device) + 0.5) / 10_000
    one = torch.ones(1, dtype=torch.float64, device=device)
    fresh = ops.hard_concrete(evenly * 0, evenly, [10_000], one).gates
    assert float((fresh == 1).double().mean()) == pytest.approx(0.168, abs=5e-4)
    assert float(fresh.mean()) == pytest.approx(0.5, abs=1e-6)
    # BERT-base: heads of 196,864 weights and biases, filters of 1,536 weights. Their share is of
    # all of these and the biases of FFNs, which no gate removes.
    sizes, weights = [12, 3072] * 12, [12 * 196864.0, 3072 * 1536.0] * 12
    shares = torch.tensor(weights, dtype=torch.float64, device=device)
    gated = sum(weights) / 85_017_600
    for filters, others, expected in (
        (0.0, 10.0, 0.1126),
        (0.0, LN100, 0.1168),
        (-LN100, -LN100, 0.999895),
    ):
        parts = [torch.full((n,), filters if n == 3072 else others) for n in sizes]
        alpha = torch.cat([*parts, torch.full((24 + 768,), others)]).double().to(device)
        found = ops.hard_concrete(
            alpha, alpha * 0 + 0.5, sizes, shares / shares.sum(), sublayers=True, hidden=768
        )
        sparsity = 1 - gated * (1 - float(found.sparsity))
        digits = len(str(expected)) - 2
        assert sparsity == pytest.approx(expected, abs=0.6 * 10.0**-digits)


@_of("masked_norm", "masked_norm_backward")
def test_masked_norm(case: Case, device: torch.device) -> None:
    arguments = case.arguments(device)
    results = getattr(ops, case.op)(**arguments)
    for found, exact, bound in zip(results, *getattr(bounds, case.op)(**arguments), strict=True):
        assert found.dtype == case.dtype
        _assert_within(found, exact, bound)
    closed = arguments["gate"] == 0
    of_closed = [results[0][:, closed]]  # y or dx
    if case.op == "masked_norm_backward":
        of_closed += [gradient[closed] for gradient in results[1:]]
    assert not any(values.any() for values in of_closed)


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
    Case("hard_concrete", (2, 5), torch.float64, ("sublayers", "hidden")),
    Case("masked_norm", (2, 5)),
    Case("masked_norm", (2, 5), torch.float64, ("no bias", "rms")),
    Case("masked_norm_backward", (2, 5)),
    Case("masked_norm_backward", (2, 5), torch.float64, ("no bias", "rms")),
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
        "hard_concrete": lambda: tuple(
            a[name] for name in ("alpha", "noise", "shares", "sizes", "sublayers", "hidden")
        ),
        "masked_norm": lambda: tuple(a.values()),
        "masked_norm_backward": lambda: (
            *(a[name] for name in ("dy", "x", "weight", "bias", "gate", "mean", "rstd")),
            a["centered"],
        ),
        "path_step": lambda: tuple(
            a[name]
            for name in (
                *("mask", "dual", "gate", "crossing", "gradient", "threshold"),
                *("kappa", "alpha", "nu", "step"),
            )
        ),
    }[case.op]()
    torch.library.opcheck(getattr(torch.ops.fastprune, case.op).default, positional)
