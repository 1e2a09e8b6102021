"""Puts a kernel behind every operation: the native one, or the reference where there is none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastprune.ops import reference
from fastprune.ops.fake import FAKES
from fastprune.ops.host import build_info
from fastprune.ops.schemas import LIBRARY, NAMESPACE, SCHEMAS

_NATIVE = Path(__file__).resolve().parent.parent / "_native.so"
_DEVICES = ("CPU", "CUDA")
_REBUILD = "Reinstall with `pip install --no-build-isolation -e .` (or `pip install .`)."

_reason: str | None = None
"""Why the native library is not in use; None when it is."""


def native_status() -> dict[str, Any]:
    """What runs the operations, for ``fastprune doctor``.

    Keys: ``native`` (bool), ``library`` (path or None), ``reason`` (why not, or None), ``cpu`` and
    ``cuda`` ("native" or "reference"), ``build`` (compiler, architectures and versions, or None).
    """
    backends = {
        device.lower(): "reference" if device in _fallback_devices else "native"
        for device in _DEVICES
    }
    library = None if _reason else str(_NATIVE)
    return {
        "native": _reason is None,
        "library": library,
        "reason": _reason,
        **backends,
        "build": build_info(),
    }


def _load_native() -> str | None:
    """Load the library; the reason in words if that is not possible."""
    if os.environ.get("FASTPRUNE_NATIVE", "on").lower() == "off":
        return "FASTPRUNE_NATIVE=off"
    if not _NATIVE.is_file():
        reason = f"{_NATIVE.name} was not built"
    else:
        try:
            torch.ops.load_library(_NATIVE)
            return None
        except OSError as error:
            reason = f"{_NATIVE.name} does not load: {error}"
    warnings.warn(
        f"fastprune runs without its native kernels, correctly but slowly: {reason}. {_REBUILD}",
        RuntimeWarning,
        stacklevel=2,
    )
    return reason


def _mask_grad(
    x: Tensor, grad: Tensor, group: int, valid: Tensor | None, offsets: Tensor | None
) -> Tensor:
    return reference.mask_grad(x, grad, group, valid, offsets).float()


def _fisher_outer(blocks: Tensor, grads: Tensor, sizes: list[int]) -> None:
    blocks += reference.fisher_outer(grads, sizes)


def _gram(out: Tensor, x: Tensor, columns: Tensor | None, valid: Tensor | None) -> None:
    out += reference.gram(x, columns, valid)


def _tuning_system(
    gram: Tensor, weight: Tensor, cross: Tensor, group: int
) -> tuple[Tensor, Tensor]:
    a, b = reference.tuning_system(gram, weight, cross, group)
    return a.to(gram.dtype), b.to(gram.dtype)


def _block_lstsq(
    systems: Tensor, rhs: Tensor, sizes: list[int], damping: float
) -> tuple[Tensor, Tensor]:
    x, info = reference.block_lstsq(systems, rhs, sizes, damping)
    return x.to(rhs.dtype), info


def _obs_greedy(
    inverse: Tensor, weight: Tensor, sizes: list[int], groups: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    order, curve, info = reference.obs_greedy(inverse, weight, sizes, groups)
    return order, curve.to(inverse.dtype), info


def _trajectory_distance(out: Tensor, features: Tensor, teacher: Tensor) -> None:
    out += reference.trajectory_distance(features, teacher)


def _path_step(
    mask: Tensor, dual: Tensor, gate: Tensor, crossing: Tensor, *inputs: Tensor | float
) -> None:
    state = (mask, dual, gate, crossing)
    moved = reference.path_step(*state, *inputs)  # type: ignore[arg-type]
    for old, new in zip(state, moved, strict=True):
        old.copy_(new)


def _hard_concrete(
    alpha: Tensor, noise: Tensor, shares: Tensor, sizes: list[int], sublayers: bool, hidden: int
) -> tuple[Tensor, ...]:
    gates, slopes, mean, sparsity, sparsity_slopes = reference.hard_concrete(
        alpha, noise, shares, sizes, sublayers, hidden
    )
    like = alpha.dtype
    return gates.to(like), slopes.to(like), mean, sparsity, sparsity_slopes.to(like)


def _masked_norm(x: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(found.to(x.dtype) for found in reference.masked_norm(x, *inputs))


def _masked_norm_backward(dy: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(found.to(dy.dtype) for found in reference.masked_norm_backward(dy, *inputs))


_REFERENCES: dict[str, Callable[..., Any]] = {
    "mask_grad": _mask_grad,
    "fisher_outer": _fisher_outer,
    "greedy_rearrange": reference.greedy_rearrange,
    "gram": _gram,
    "tuning_system": _tuning_system,
    "block_lstsq": _block_lstsq,
    "obs_greedy": _obs_greedy,
    "trajectory_distance": _trajectory_distance,
    "path_step": _path_step,
    "hard_concrete": _hard_concrete,
    "masked_norm": _masked_norm,
    "masked_norm_backward": _masked_norm_backward,
}


@cache
def _warn_built_without_cuda() -> None:
    warnings.warn(
        "fastprune was built without CUDA: its operations run as plain PyTorch on the GPU. "
        f"Set FASTPRUNE_CUDA=on and reinstall. {_REBUILD}",
        RuntimeWarning,
        stacklevel=4,
    )


def _slow_on_cuda(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        _warn_built_without_cuda()
        return kernel(*args)

    return run


def _register_references() -> set[str]:
    """Fill the devices that have no native kernel; returns them."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    devices = set()
    for name in SCHEMAS:
        for device in _DEVICES:
            if has_kernel(f"{NAMESPACE}::{name}", device):
                continue
            devices.add(device)
            kernel = _REFERENCES[name]
            built_without_cuda = device == "CUDA" and _reason is None
            LIBRARY.impl(name, _slow_on_cuda(kernel) if built_without_cuda else kernel, device)
    return devices


for _name, _fake in FAKES.items():
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=LIBRARY)
_reason = _load_native()
_fallback_devices = _register_references()
