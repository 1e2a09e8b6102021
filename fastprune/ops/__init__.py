"""Native operations: the arithmetic every room of fastprune calls, on CPU and CUDA.

Each function checks its arguments, allocates the result and calls ``torch.ops.fastprune.*``, where
the dispatcher picks the kernel by device. Statistics accumulate in float32 or better whatever the
input type, results repeat bitwise on one machine, and no operation has a derivative but
:func:`normalise_kept`, which is :func:`masked_norm` with its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune.ops.checks import (
    FLOATS,
    STATISTICS,
    ArgumentError,
    checked_sizes,
    require,
    require_device,
    require_dtype,
    require_shape,
    row_mask,
)
from fastprune.ops.gates import DrawnGates, hard_concrete
from fastprune.ops.host import allocate, budget_search
from fastprune.ops.loader import native_status
from fastprune.ops.norms import (
    MaskedNorm,
    MaskedNormGradients,
    masked_norm,
    masked_norm_backward,
    normalise_kept,
)

__all__ = [
    "LARGEST_SYSTEM",
    "WIDEST_GROUP",
    "ArgumentError",
    "DrawnGates",
    "MaskedNorm",
    "MaskedNormGradients",
    "allocate",
    "block_lstsq",
    "budget_search",
    "fisher_outer",
    "gram",
    "greedy_rearrange",
    "hard_concrete",
    "mask_grad",
    "masked_norm",
    "masked_norm_backward",
    "native_status",
    "normalise_kept",
    "obs_greedy",
    "path_step",
    "trajectory_distance",
    "tuning_system",
]

_ops = torch.ops.fastprune
LARGEST_SYSTEM = 4096
WIDEST_GROUP = 4096


def mask_grad(
    x: Tensor,
    grad: Tensor,
    group: int,
    *,
    valid: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """Gradient of each sample's loss with respect to each unit's mask, at mask = 1.

    ``out[i, u]`` is the sum of ``x * grad`` over the valid tokens of sample ``i`` and the
    ``group`` columns of unit ``u`` (Kwon et al. 2022, section 4.1).

    Args:
        x: activations, float32, bfloat16 or float16; ``[samples, tokens, columns]`` padded, or
            ``[rows, columns]`` packed.
        grad: gradient of the *summed* loss with respect to ``x``; same shape and dtype.
        group: columns per unit; divides ``columns``.
        valid: padded layout: ``[samples, tokens]``, nonzero = a real token. What padding holds,
            even NaN, does not matter.
        offsets: packed layout: ``[samples + 1]`` int64; sample ``i`` owns rows
            ``offsets[i]:offsets[i + 1]``. Checked on the CPU only: on CUDA that would stall.

    Returns:
        ``[samples, columns // group]`` float32.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require_dtype("x", x, FLOATS)
    require_dtype("grad", grad, [x.dtype])
    require_shape("grad", grad, x.shape)
    require_device("grad", grad, x)
    columns = x.shape[-1] if x.dim() else 0
    require(
        isinstance(group, int) and group > 0 and columns % group == 0,
        f"group {group} does not divide the {columns} columns",
    )
    if offsets is None:
        require(x.dim() == 3, f"x must be [samples, tokens, columns], not {list(x.shape)}")
        if valid is not None:
            valid = row_mask("valid", valid, x.shape[:2], x)
    else:
        require(x.dim() == 2, f"x must be [rows, columns] with offsets, not {list(x.shape)}")
        require(valid is None, "packed rows have no padding: give valid or offsets, not both")
        require_dtype("offsets", offsets, [torch.int64])
        require(offsets.dim() == 1 and len(offsets) > 0, "offsets must be [samples + 1]")
        require_device("offsets", offsets, x)
        if offsets.is_cpu:
            inside = int(offsets[0]) >= 0 and int(offsets[-1]) <= x.shape[0]
            ordered = bool((offsets.diff() >= 0).all())
            require(inside and ordered, f"offsets must ascend within [0, {x.shape[0]}]")
    return _ops.mask_grad(x, grad, group, valid, offsets)


def fisher_outer(grads: Tensor, sizes: Sequence[int], *, out: Tensor | None = None) -> Tensor:
    """Block-diagonal Fisher information: ``G_s^T G_s`` for every site (Kwon et al. 2022, 4.2).

    Args:
        grads: ``[rows, sum(sizes)]`` float32, bfloat16 or float16; the sites side by side.
        sizes: units of each site.
        out: ``[sum(n * n for n in sizes)]`` float32 contiguous; added to in place. The lower
            triangles follow the upper ones. Default: zeros.

    Returns:
        ``out``: the blocks one after the other, row major, bitwise symmetric.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    sizes = checked_sizes(sizes)
    require_dtype("grads", grads, FLOATS)
    require(grads.dim() == 2, f"grads must be [rows, sum(sizes)], not {list(grads.shape)}")
    require_shape("grads", grads, [grads.shape[0], sum(sizes)])
    elements = sum(size * size for size in sizes)
    if out is None:
        out = torch.zeros(elements, dtype=torch.float32, device=grads.device)
    _require_accumulator(out, [elements], [torch.float32], grads)
    _ops.fisher_outer(out, grads, sizes)
    return out


def greedy_rearrange(blocks: Tensor, sizes: Sequence[int], masks: Tensor) -> Tensor:
    """Mask rearrangement under the block-diagonal Fisher (Kwon et al. 2022, section 4.2).

    Every site of every mask keeps its number of units; which ones is decided again, greedily, with
    the interactions between units. The procedure, tie rules included, is that of
    ``csrc/kernels/greedy_rearrange.h``.

    Args:
        blocks: ``[sum(n * n for n in sizes)]`` float32, as from :func:`fisher_outer`.
        sizes: units of each site.
        masks: ``[problems, sum(sizes)]`` or ``[sum(sizes)]``, nonzero = kept.

    Returns:
        float32 zeros and ones in the shape of ``masks``.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    sizes = checked_sizes(sizes)
    require_dtype("blocks", blocks, [torch.float32])
    require_shape("blocks", blocks, [sum(size * size for size in sizes)])
    require(masks.dim() in (1, 2), f"masks must be [problems, units], not {list(masks.shape)}")
    require_shape("masks", masks, [*masks.shape[:-1], sum(sizes)])
    require_device("masks", masks, blocks)
    kept = (masks != 0).to(torch.float32).reshape(masks.shape[:-1].numel(), sum(sizes))
    return _ops.greedy_rearrange(blocks.contiguous(), sizes, kept).view(masks.shape)


def gram(
    x: Tensor,
    *,
    columns: Tensor | None = None,
    valid: Tensor | None = None,
    out: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Second moments ``X^T X`` of chosen columns over valid rows (Kwon et al. 2022, section 4.3).

    Args:
        x: ``[..., width]`` float32, bfloat16 or float16; leading dimensions are rows.
        columns: ``[k]`` int64 column indices; default all. Range-checked when given on the CPU.
        valid: ``x.shape[:-1]``, nonzero = the row counts. What other rows hold does not matter.
        out: ``[k, k]`` float32 or float64 contiguous; added to in place. The lower triangle
            follows the upper one. Default: zeros of ``dtype``.
        dtype: type of a new ``out``.

    Returns:
        ``out``, bitwise symmetric.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require_dtype("x", x, FLOATS)
    require(x.dim() >= 1, "x must be [..., width]")
    width = x.shape[-1]
    if valid is not None:
        valid = row_mask("valid", valid, x.shape[:-1], x).view(-1)
    if columns is not None:
        require_dtype("columns", columns, [torch.int64])
        require(columns.dim() == 1, f"columns must be [k], not {list(columns.shape)}")
        if columns.is_cpu and len(columns):
            inside = int(columns.min()) >= 0 and int(columns.max()) < width
            require(inside, f"columns must lie within [0, {width})")
        columns = columns.to(x.device).contiguous()
    selected = width if columns is None else len(columns)
    if out is None:
        require_dtype("out", torch.empty(0, dtype=dtype), STATISTICS)
        out = torch.zeros(selected, selected, dtype=dtype, device=x.device)
    _require_accumulator(out, [selected, selected], STATISTICS, x)
    rows = x.shape[:-1].numel()
    _ops.gram(out, x.reshape(rows, width), columns, valid)
    return out


def tuning_system(gram: Tensor, weight: Tensor, cross: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Normal equations of mask tuning from Gram matrices (Kwon et al. 2022, section 4.3).

    Scaling unit ``u`` by ``s[u]`` fits the target best where ``A s = b``:
    ``A[u, v]`` sums ``(W^T W) * gram`` over the columns of ``u`` and ``v``, and ``b[u]`` sums
    ``cross * W^T`` over the columns of ``u`` and all outputs.

    Args:
        gram: ``[columns, columns]`` float32 or float64, ``X^T X``, symmetric.
        weight: ``[outputs, columns]`` float32, bfloat16, float16 or float64.
        cross: ``[columns, outputs]``, dtype of ``gram``: ``X^T target``.
        group: columns per unit; divides ``columns``.

    Returns:
        ``(A [units, units], b [units])`` in the dtype of ``gram``; ``A`` is bitwise symmetric.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require(weight.dim() == 2, f"weight must be [outputs, columns], not {list(weight.shape)}")
    outputs, columns = weight.shape
    require(
        isinstance(group, int) and group > 0 and columns % group == 0,
        f"group {group} does not divide the {columns} columns",
    )
    require_dtype("weight", weight, (*FLOATS, torch.float64))
    require_dtype("gram", gram, STATISTICS)
    require_dtype("cross", cross, [gram.dtype])
    require_shape("gram", gram, [columns, columns])
    require_shape("cross", cross, [columns, outputs])
    require_device("gram", gram, weight)
    require_device("cross", cross, weight)
    return _ops.tuning_system(gram.contiguous(), weight, cross.contiguous(), group)


def block_lstsq(
    systems: Tensor, rhs: Tensor, sizes: Sequence[int], damping: float
) -> tuple[Tensor, Tensor]:
    """Solve ``(A_s + damping * mean(diag A_s) I) X_s = B_s`` for every system, in float64.

    Args:
        systems: ``[sum(n * n for n in sizes)]`` float32 or float64, symmetric positive
            semi-definite blocks; the lower triangles are read.
        rhs: ``[sum(sizes), k]`` or ``[sum(sizes)]``, dtype of ``systems``.
        sizes: unknowns of each system, at most 4096.
        damping: relative ridge, not negative.

    Returns:
        ``(x, info)``: ``x`` like ``rhs``, and int32 ``info [len(sizes)]``: 0 = solved. A system
        that is not positive definite or not finite gives zeros and 1 + the index of its first bad
        pivot; a right-hand side that is not finite gives zeros and -1.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    sizes = checked_sizes(sizes)
    require_dtype("systems", systems, STATISTICS)
    require_dtype("rhs", rhs, [systems.dtype])
    require_shape("systems", systems, [sum(size * size for size in sizes)])
    require(rhs.dim() in (1, 2), f"rhs must be [sum(sizes), k], not {list(rhs.shape)}")
    require_shape("rhs", rhs, [sum(sizes), *rhs.shape[1:]])
    require_device("rhs", rhs, systems)
    require(0 <= damping < float("inf"), f"damping must be finite and >= 0, not {damping}")
    largest = max(sizes, default=0)
    require(largest <= LARGEST_SYSTEM, f"a system has {largest} > {LARGEST_SYSTEM} unknowns")
    columns = rhs[:, None] if rhs.dim() == 1 else rhs
    x, info = _ops.block_lstsq(systems.contiguous(), columns.contiguous(), sizes, float(damping))
    return x.view(rhs.shape), info


def obs_greedy(
    inverse: Tensor, weight: Tensor, sizes: Sequence[int], groups: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove units one after the other, each time the one whose loss is repaired most cheaply.

    Optimal Brain Surgeon on groups of columns, greedily (Hassibi & Stork 1993; Kurtic et al. 2023).
    The error of other weights ``W'`` is ``tr((W - W')^T H (W - W'))``; a unit's cost is the least
    error that its removal adds once the rows of all others are adjusted.

    Args:
        inverse: ``[sum(n * n)]`` float32 or float64, ``n = size * group`` for every site: the
            inverses of ``H``, symmetric positive definite; the lower triangles are read.
        weight: ``[sum(n), outputs]``, dtype of ``inverse``: row ``j`` multiplies column ``j``.
        sizes: units of each site.
        groups: columns per unit of each site, 1 to 4096.

    Returns:
        ``(order, curve, info)``: int32 ``order [sum(sizes)]``, the units of each site as they go
        (of equals the first), ``curve``, the error without them, in the dtype of ``inverse``, and
        int32 ``info [len(sizes)]``: 0 = done, or 1 + the number removed before no unit was left
        with a positive definite block and a finite cost; the others follow in ascending order,
        with an infinite error.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    sizes, groups = checked_sizes(sizes), checked_sizes(groups)
    require(len(sizes) == len(groups), f"{len(sizes)} sizes, but {len(groups)} groups")
    within = all(1 <= group <= WIDEST_GROUP for group in groups)
    require(within, f"groups must lie within [1, {WIDEST_GROUP}]: {groups}")
    columns = [size * group for size, group in zip(sizes, groups, strict=True)]
    require_dtype("inverse", inverse, STATISTICS)
    require_dtype("weight", weight, [inverse.dtype])
    require_shape("inverse", inverse, [sum(n * n for n in columns)])
    require(weight.dim() == 2, f"weight must be [columns, outputs], not {list(weight.shape)}")
    require_shape("weight", weight, [sum(columns), weight.shape[1]])
    require_device("weight", weight, inverse)
    return _ops.obs_greedy(inverse.contiguous(), weight.contiguous(), sizes, groups)


def trajectory_distance(features: Tensor, teacher: Tensor, *, out: Tensor | None = None) -> Tensor:
    """How far the features of variants of a model are from the teacher's, by their Gram matrices.

    ``||S S^T - T T^T||_F^2`` over all pairs of rows, where S and T are the rows of a variant and of
    the teacher at unit length: the manifold distillation loss of OPTIN (Khaki & Plataniotis 2024).
    The difference is formed without subtracting Gram matrices, so that it keeps its digits where a
    variant differs in the last ones only; equal features give exactly 0.

    Args:
        features: ``[variants, rows, width]`` float32, bfloat16 or float16, as the model made them.
            A row of zeros stays one.
        teacher: ``[rows, width]``, same dtype.
        out: ``[variants]`` float64 contiguous; added to in place, so that layers add up where the
            features are. Default: zeros.

    Returns:
        ``out``. A variant that is not finite somewhere gives NaN, whatever the others hold.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require_dtype("features", features, FLOATS)
    shape = list(features.shape)
    require(len(shape) == 3, f"features must be [variants, rows, width], not {shape}")
    require_dtype("teacher", teacher, [features.dtype])
    require_shape("teacher", teacher, shape[1:])
    require_device("teacher", teacher, features)
    if out is None:
        out = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    _require_accumulator(out, [len(features)], [torch.float64], features)
    _ops.trajectory_distance(out, features, teacher)
    return out


def path_step(
    mask: Tensor,
    dual: Tensor,
    gate: Tensor,
    crossing: Tensor,
    gradient: Tensor,
    threshold: Tensor,
    *,
    kappa: Tensor,
    alpha: Tensor,
    nu: Tensor,
    step: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of several solution paths: split linearised Bregman iteration on masks.

    With ``pull = (mask - gate) / nu``, the masks move by ``-kappa * alpha * (gradient + pull)``,
    their duals by ``alpha * pull``, and the gates become ``kappa * max(dual - threshold, 0)``. A
    unit enters its path where its dual first exceeds its threshold, between two steps as a straight
    line has it (Fu et al. 2020, DessiLBI, with masks in place of weights).

    Args:
        mask: ``[paths, units]`` float32 or float64 contiguous; starts at 1. Updated in place, like
            the next three.
        dual: like ``mask``; starts at 0.
        gate: like ``mask``; starts at 0, and is 0 for units that have not entered.
        crossing: ``[paths, units]`` float64 contiguous: when each unit entered, in steps. Starts
            at infinity, and whatever is finite stays.
        gradient: of the loss with respect to the masks, shape and dtype of ``mask``.
        threshold: what a dual must exceed, shape and dtype of ``mask``, not negative.
        kappa: ``[paths]``, dtype of ``mask``: how fast masks and gates move, by the duals' pace.
        alpha: likewise, the length of a step.
        nu: likewise, how loosely masks are bound to their gates, positive. Like that of thresholds
            the sign is not checked: to look would make a GPU wait.
        step: the number of steps before this one.

    Returns:
        ``(mask, dual, gate, crossing)``, which were updated.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit together.
    """
    require_dtype("mask", mask, STATISTICS)
    require(mask.dim() == 2, f"mask must be [paths, units], not {list(mask.shape)}")
    for name, state in (("dual", dual), ("gate", gate), ("crossing", crossing)):
        require_shape(name, state, mask.shape)
        require_dtype(name, state, [torch.float64 if name == "crossing" else mask.dtype])
        require_device(name, state, mask)
    for name, state in (("mask", mask), ("dual", dual), ("gate", gate), ("crossing", crossing)):
        require(state.is_contiguous(), f"{name} must be contiguous: it is updated in place")
        require(not state.requires_grad, f"{name} requires gradients: give its .data, or detach it")
    for name, values in (("gradient", gradient), ("threshold", threshold)):
        require_shape(name, values, mask.shape)
    for name, values in (("kappa", kappa), ("alpha", alpha), ("nu", nu)):
        require_shape(name, values, mask.shape[:1])
    inputs = {
        "gradient": gradient,
        "threshold": threshold,
        "kappa": kappa,
        "alpha": alpha,
        "nu": nu,
    }
    for name, values in inputs.items():
        require_dtype(name, values, [mask.dtype])
        require_device(name, values, mask)
    _ops.path_step(mask, dual, gate, crossing, *inputs.values(), float(step))
    return mask, dual, gate, crossing


def _require_accumulator(
    out: Tensor, shape: Sequence[int], dtypes: Sequence[torch.dtype], like: Tensor
) -> None:
    require_shape("out", out, shape)
    require_dtype("out", out, dtypes)
    require_device("out", out, like)
    require(out.is_contiguous(), "out must be contiguous")
    require(not out.requires_grad, "out requires gradients: detach it")
