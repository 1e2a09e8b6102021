"""The masked normalisation as a layer: against plain PyTorch, and its derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fastprune import ops

WIDTH = 37
F64 = torch.float64


def plainly(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, *, eps: float, centered: bool
) -> Tensor:
    """The kept columns taken out, normalised by torch, put back and multiplied by their gates."""
    kept = gate.nonzero()[:, 0]
    inside, shape = x.index_select(-1, kept), (len(kept),)
    if centered:
        y = functional.layer_norm(
            inside, shape, weight[kept], None if bias is None else bias[kept], eps
        )
    else:
        y = functional.rms_norm(inside, shape, weight[kept], eps)
        y = y if bias is None else y + bias[kept]
    return torch.zeros_like(x).index_copy(-1, kept, y) * gate


def drawn(
    device: torch.device, *shape: int, closed: slice = slice(0, None, 3), dtype: torch.dtype = F64
) -> list[Tensor]:
    """x, weight, bias and a gate that is closed somewhere; all may be learnt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=F64) + 2
    weight, bias = torch.randn(2, shape[-1], generator=generator, dtype=F64)
    gate = torch.rand(shape[-1], generator=generator, dtype=F64) + 0.1
    gate[closed] = 0
    return [values.to(device, dtype).requires_grad_() for values in (x, weight, bias, gate)]


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(WIDTH,), (5, WIDTH), (2, 3, WIDTH), (2, 0, WIDTH), (3, 1)])
def test_equals_the_plain_form(
    shape: tuple[int, ...], bias: bool, centered: bool, device: torch.device
) -> None:
    closed = slice(0, 0) if shape[-1] == 1 else slice(0, None, 3)
    inputs = drawn(device, *shape, closed=closed)
    given = [inputs[0], inputs[1], inputs[2] if bias else None, inputs[3]]
    learnt = [values for values in given if values is not None]
    options = {"eps": 1e-6, "centered": centered}
    y, expected = ops.normalise_kept(*given, **options), plainly(*given, **options)
    assert y.is_contiguous()
    dy = torch.linspace(-1, 1, y.numel(), dtype=F64, device=device).view(y.shape)
    found = torch.autograd.grad(y, learnt, dy)
    gradients = torch.autograd.grad(expected, learnt, dy)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    # The plain form has derivatives by gates that are closed: of a product with zero.
    open_ = (given[3] != 0).double()
    for actual, wanted in zip(found, [*gradients[:-1], gradients[-1] * open_], strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("closed", [slice(0, 0), slice(1, None), slice(0, None, 2)])
@pytest.mark.parametrize("centered", [True, False])
def test_derivatives(closed: slice, centered: bool, device: torch.device) -> None:
    """By differences; a closed gate has no derivative, so open ones are varied alone."""
    x, weight, bias, gate = drawn(device, 4, 3, 9, closed=closed)
    kept = gate.detach() != 0
    open_ = gate.detach()[kept].requires_grad_()

    def normalised(*inputs: Tensor) -> Tensor:
        gates = torch.zeros_like(gate).masked_scatter(kept, inputs[-1])
        return ops.normalise_kept(*inputs[:-1], gates, eps=1e-3, centered=centered)

    assert torch.autograd.gradcheck(normalised, (x, weight, bias, open_))


def test_open_gates_are_layer_norm(device: torch.device) -> None:
    x, weight, bias, _ = drawn(device, 6, WIDTH, dtype=torch.float32)
    ones = torch.ones(WIDTH, device=device)
    y = ops.normalise_kept(x, weight, bias, ones, eps=1e-5, centered=True)
    expected = functional.layer_norm(x, (WIDTH,), weight, bias, 1e-5)
    # Mean and deviation each round once more or less, for values and weights below 4.
    torch.testing.assert_close(y, expected, rtol=0, atol=64 * torch.finfo(torch.float32).eps)


def test_closed_dimensions_reach_nothing(device: torch.device) -> None:
    inputs = drawn(device, 70, WIDTH, dtype=torch.float32)
    closed = inputs[3].detach() == 0
    poisoned = [values.detach().clone() for values in inputs]
    for values, poison in zip(
        poisoned[:3], (float("nan"), float("inf"), float("nan")), strict=True
    ):
        values[..., closed] = poison
    results = []
    for given in (inputs, [values.requires_grad_() for values in poisoned]):
        y = ops.normalise_kept(*given, eps=1e-5, centered=True)
        results.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
        assert not dirty[..., closed].any()


def test_without_kept_dimensions_all_is_zero(device: torch.device) -> None:
    inputs = drawn(device, 3, WIDTH, closed=slice(None))
    y = ops.normalise_kept(*inputs, eps=0.0, centered=True)
    for values in (y, *torch.autograd.grad(y.sum(), inputs)):
        assert not values.any()


def test_a_row_far_from_zero_keeps_its_digits(device: torch.device) -> None:
    """The mean of squares less the square of the mean would have none left."""
    x = 4096 + torch.arange(32.0, device=device)
    ones, zeros = torch.ones(32, device=device), torch.zeros(32, device=device)
    y = ops.normalise_kept(x, ones, zeros, ones, eps=0.0, centered=True)
    exact = functional.layer_norm(x.double(), (32,), eps=0.0)
    assert (y - exact).abs().max() <= 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    x, weight, bias, gate = drawn(device, 5, WIDTH, dtype=torch.float32)
    half = x.detach().to(dtype).requires_grad_()
    y = ops.normalise_kept(half, weight, bias, gate, eps=1e-5, centered=True)
    single = half.detach().float().requires_grad_()
    expected = ops.normalise_kept(single, weight, bias, gate, eps=1e-5, centered=True)
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    dy = torch.ones_like(y)
    found = torch.autograd.grad(y, [half, weight, bias, gate], dy)
    wanted = torch.autograd.grad(expected, [single, weight, bias, gate], dy.float())
    assert [gradient.dtype for gradient in found] == [dtype, *[torch.float32] * 3]
    for actual, exact in zip(found, wanted, strict=True):
        assert torch.equal(actual, exact.to(actual.dtype))


def test_autocast_computes_in_float32(device: torch.device) -> None:
    inputs = [values.detach().bfloat16().requires_grad_() for values in drawn(device, 5, WIDTH)]
    with torch.autocast(device.type, torch.bfloat16):
        y = ops.normalise_kept(*inputs, eps=1e-5, centered=True)
    single = [values.detach().float().requires_grad_() for values in inputs]
    expected = ops.normalise_kept(*single, eps=1e-5, centered=True)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    found = torch.autograd.grad(y.sum(), inputs)
    for actual, exact in zip(found, torch.autograd.grad(expected.sum(), single), strict=True):
        assert torch.equal(actual, exact.bfloat16())


def test_what_is_not_learnt_gets_no_derivative(device: torch.device) -> None:
    x, weight, _, gate = drawn(device, 5, WIDTH)
    y = ops.normalise_kept(x, weight.detach(), None, gate, eps=1e-5, centered=True)
    y.sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert gate.grad is not None


def test_there_is_no_second_derivative(device: torch.device) -> None:
    inputs = drawn(device, 5, WIDTH)
    y = ops.normalise_kept(*inputs, eps=1e-5, centered=True)
    (dx,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_compiles_whole(device: torch.device) -> None:
    inputs = drawn(device, 5, WIDTH)

    def loss(*given: Tensor) -> Tensor:
        return ops.normalise_kept(*given, eps=1e-5, centered=True).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*inputs), inputs)
    for actual, expected in zip(found, torch.autograd.grad(loss(*inputs), inputs), strict=True):
        torch.testing.assert_close(actual, expected)


def test_repeats_for_any_number_of_threads() -> None:
    """Rows enough for several tasks; derivatives of columns are sums over all of them."""
    inputs = drawn(torch.device("cpu"), 500, WIDTH, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count, _ in itertools.product((1, 2), range(2)):
            torch.set_num_threads(count)
            y = ops.normalise_kept(*inputs, eps=1e-5, centered=True)
            results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
