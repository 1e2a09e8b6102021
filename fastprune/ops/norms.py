"""Layer norm over the dimensions that are kept, with its derivatives."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastprune.ops.checks import (
    FLOATS,
    STATISTICS,
    require,
    require_device,
    require_dtype,
    require_shape,
)


class MaskedNorm(NamedTuple):
    """Normalised rows, and what their derivatives need.

    Attributes:
        y: ``[rows, width]``, exactly 0 where the gate is closed.
        mean: ``[rows]``, over the kept dimensions; 0 unless centred.
        rstd: ``[rows]``, the inverse standard deviation; 0 if nothing is kept.
    """

    y: Tensor
    mean: Tensor
    rstd: Tensor


class MaskedNormGradients(NamedTuple):
    """Derivatives by the inputs of :func:`masked_norm`; 0 where the gate is closed.

    Attributes:
        dx: ``[rows, width]``.
        dweight: ``[width]``.
        dbias: ``[width]``; zeros without a bias.
        dgate: ``[width]``.
    """

    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    dgate: Tensor


def masked_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, *, eps: float, centered: bool
) -> MaskedNorm:
    """Layer norm over the dimensions whose gate is open, times their gates.

    Mean and variance are over the dimensions with a gate other than 0, as if the others were not
    there (Xia et al. 2022, CoFi). What these hold, even NaN, does not matter.

    Args:
        x: ``[rows, width]`` float32 or float64.
        weight: ``[width]``, same dtype, like all that follow.
        bias: ``[width]`` or None.
        gate: ``[width]``, not negative; 0 = closed. The sign is not checked: to look would make a
            GPU wait.
        eps: added to the variance.
        centered: LayerNorm; False: RMSNorm, which takes no mean off.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require_dtype("x", x, STATISTICS)
    require(x.dim() == 2, f"x must be [rows, width], not {list(x.shape)}")
    _require_columns(x, weight, bias, gate, [x.dtype])
    _require_eps(eps)
    return MaskedNorm(
        *torch.ops.fastprune.masked_norm(x, weight, bias, gate, float(eps), bool(centered))
    )


def masked_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    mean: Tensor,
    rstd: Tensor,
    *,
    centered: bool,
) -> MaskedNormGradients:
    """Derivatives of :func:`masked_norm`. Sums over rows repeat bit for bit.

    Args:
        dy: ``[rows, width]``, the derivative by ``y``; dtype of ``x``, like all that follow.
        x: ``[rows, width]`` float32 or float64, with ``weight``, ``bias``, ``gate`` and
            ``centered`` as they were given to :func:`masked_norm`.
        mean: ``[rows]``, as returned there.
        rstd: likewise.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require_dtype("x", x, STATISTICS)
    require(x.dim() == 2, f"x must be [rows, width], not {list(x.shape)}")
    _require_columns(x, weight, bias, gate, [x.dtype])
    for name, values, shape in (
        ("dy", dy, x.shape),
        ("mean", mean, x.shape[:1]),
        ("rstd", rstd, x.shape[:1]),
    ):
        require_dtype(name, values, [x.dtype])
        require_shape(name, values, shape)
        require_device(name, values, x)
    return MaskedNormGradients(
        *torch.ops.fastprune.masked_norm_backward(
            dy, x, weight, bias, gate, mean, rstd, bool(centered)
        )
    )


def normalise_kept(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, *, eps: float, centered: bool
) -> Tensor:
    """:func:`masked_norm` for training: differentiable, once, by ``x``, weight, bias and gate.

    Computes in float32, or in float64 if ``x`` is that. Under autocast inputs are cast to float32,
    and so is the result, as autocast does with ``torch.nn.functional.layer_norm``.

    Args:
        x: ``[..., width]`` float32, bfloat16, float16 or float64.
        weight: ``[width]`` of any of these types, like the next two.
        bias: ``[width]`` or None.
        gate: ``[width]``, not negative; 0 = closed, and then without a derivative.
        eps: added to the variance.
        centered: LayerNorm; False: RMSNorm.

    Returns:
        Shape and dtype of ``x``, contiguous.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    floats = (*FLOATS, torch.float64)
    require_dtype("x", x, floats)
    require(x.dim() >= 1, "x must be [..., width]")
    _require_columns(x, weight, bias, gate, floats)
    _require_eps(eps)
    require(x.device.type in _FUNCTIONS, f"x is on {x.device}: move it to a CPU or CUDA device")
    return _FUNCTIONS[x.device.type].apply(x, weight, bias, gate, float(eps), bool(centered))


def _require_columns(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, dtypes: Sequence[torch.dtype]
) -> None:
    columns = {"weight": weight, "gate": gate}
    if bias is not None:
        columns["bias"] = bias
    for name, values in columns.items():
        require_dtype(name, values, dtypes)
        require_shape(name, values, x.shape[-1:])
        require_device(name, values, x)


def _require_eps(eps: float) -> None:
    fits = isinstance(eps, (int, float)) and 0 <= eps <= sys.float_info.max
    require(fits, f"eps must be finite and >= 0, not {eps!r}")


def _forward(
    ctx: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    eps: float,
    centered: bool,
) -> Tensor:
    rows, columns = _in_arithmetic(x, weight, bias, gate)
    y, mean, rstd = torch.ops.fastprune.masked_norm(rows, *columns, eps, centered)
    ctx.save_for_backward(x, weight, bias, gate, mean, rstd)
    ctx.centered = centered
    return y.view(x.shape).to(x.dtype)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, gate, mean, rstd = ctx.saved_tensors
    inputs = (x, weight, bias, gate)
    rows, columns = _in_arithmetic(*inputs)
    found = torch.ops.fastprune.masked_norm_backward(
        dy.reshape(rows.shape).to(rows.dtype), rows, *columns, mean, rstd, ctx.centered
    )
    gradients = (
        None if given is None else gradient.view(given.shape).to(given.dtype)
        for given, gradient in zip(inputs, found, strict=True)
    )
    return (*gradients, None, None)


def _in_arithmetic(x: Tensor, *columns: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
    """``x`` as rows, and the columns, in the type that they are computed in."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1]).to(dtype)
    return rows, [None if values is None else values.to(dtype) for values in columns]


def _function_on(device: str) -> type[torch.autograd.Function]:
    """The function whose inputs autocast on devices of this type casts."""

    class NormaliseKept(torch.autograd.Function):
        forward = staticmethod(
            torch.amp.custom_fwd(_forward, device_type=device, cast_inputs=torch.float32)
        )
        backward = staticmethod(
            torch.amp.custom_bwd(once_differentiable(_backward), device_type=device)
        )

    return NormaliseKept


_FUNCTIONS = {device: _function_on(device) for device in ("cpu", "cuda")}
