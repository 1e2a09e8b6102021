"""The inputs of the operations: one declarative list for correctness and opcheck.

A case names an operation, its extents, a dtype and what is awkward about it. ``arguments`` makes
the keyword arguments of the wrapper in ``fastprune.ops``; the same case always gives the same
numbers.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import torch
from torch import Tensor

from fastprune.ops import reference

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64


@dataclass(frozen=True)
class Case:
    op: str
    extents: tuple[int, ...]
    """Per operation: see the function of the same name below."""
    dtype: torch.dtype = F32
    traits: tuple[str, ...] = ()

    def __str__(self) -> str:
        runs = [(extent, len(list(run))) for extent, run in groupby(self.extents)]
        extents = "x".join(str(extent) if n == 1 else f"{n}*{extent}" for extent, n in runs)
        return "-".join([self.op, extents, str(self.dtype)[6:], *self.traits])

    def arguments(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        generator = torch.Generator().manual_seed(zlib.crc32(str(self).encode()))
        values = _MAKERS[self.op](self, generator)
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}


def _normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.randn(*shape, generator=generator).to(dtype)


def _laid_out(values: Tensor, traits: tuple[str, ...]) -> Tensor:
    """The same numbers in an awkward place."""
    if "gaps" in traits:  # rows further apart than they are long, and not 16-byte aligned
        wide = values.new_full((*values.shape[:-1], values.shape[-1] + 3), float("nan"))
        wide[..., 1:-2] = values
        return wide[..., 1:-2]
    if "transposed" in traits:  # columns are not contiguous
        return values.mT.contiguous().mT
    return values


def _valid(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator) > 0.3


def _mask_grad(case: Case, g: torch.Generator) -> dict[str, Any]:
    """samples, tokens, units, group; padding holds NaN and infinity."""
    samples, tokens, units, group = case.extents
    shape = (samples, tokens, units * group)
    x, grad = (_normal(g, *shape, dtype=case.dtype) for _ in range(2))
    result: dict[str, Any] = {"group": group}
    if "valid" in case.traits:
        valid = _valid(g, samples, tokens)
        x[~valid], grad[~valid] = float("nan"), float("inf")
        result["valid"] = valid
    if "packed" in case.traits:
        x, grad = x.flatten(0, 1), grad.flatten(0, 1)
        cuts = torch.randint(0, len(x) + 1, (samples + 1,), generator=g)
        result["offsets"] = cuts.sort().values
    return {"x": _laid_out(x, case.traits), "grad": _laid_out(grad, case.traits), **result}


def _fisher_outer(case: Case, g: torch.Generator) -> dict[str, Any]:
    """rows, then the size of every site."""
    rows, *sizes = case.extents
    grads = _normal(g, rows, sum(sizes), dtype=case.dtype)
    return {"grads": _laid_out(grads, case.traits), "sizes": sizes}


def _greedy_rearrange(case: Case, g: torch.Generator) -> dict[str, Any]:
    """problems, then the size of every site; trait "tied" makes equal costs frequent."""
    problems, *sizes = case.extents
    factors = [torch.randn(n, n + 3, generator=g) for n in sizes]
    if "tied" in case.traits:
        factors = [factor.round() for factor in factors]
    blocks = torch.cat([torch.zeros(0), *[(f @ f.T).flatten() for f in factors]])
    masks = (torch.rand(problems, sum(sizes), generator=g) > 0.5).float()
    return {"blocks": blocks, "sizes": sizes, "masks": masks}


def _gram(case: Case, g: torch.Generator) -> dict[str, Any]:
    """rows, width; trait "columns" takes some of them, out of order."""
    rows, width = case.extents
    x = _normal(g, rows, width, dtype=case.dtype)
    result: dict[str, Any] = {"dtype": F32 if "sum32" in case.traits else F64}
    if "valid" in case.traits:
        result["valid"] = _valid(g, rows)
        x[~result["valid"]] = float("nan")
    if "columns" in case.traits:
        result["columns"] = torch.randperm(width, generator=g)[: (width + 1) // 2]
    return {"x": _laid_out(x, case.traits), **result}


def _tuning_system(case: Case, g: torch.Generator) -> dict[str, Any]:
    """units, group, outputs; the dtype is that of the weight."""
    units, group, outputs = case.extents
    columns = units * group
    statistics = F32 if "sum32" in case.traits else F64
    x = torch.randn(columns + 2, columns, generator=g, dtype=F64)
    return {
        "gram": (x.T @ x).to(statistics),
        "weight": _laid_out(_normal(g, outputs, columns, dtype=case.dtype), case.traits),
        "cross": torch.randn(columns, outputs, generator=g, dtype=F64).to(statistics),
        "group": group,
    }


def _block_lstsq(case: Case, g: torch.Generator) -> dict[str, Any]:
    """right-hand sides, then the size of every system; well conditioned."""
    columns, *sizes = case.extents
    factors = [torch.randn(n, 2 * n + 1, generator=g, dtype=F64) for n in sizes]
    systems = torch.cat([torch.zeros(0, dtype=F64), *[(f @ f.T).flatten() for f in factors]])
    rhs = torch.randn(sum(sizes), columns, generator=g, dtype=F64)
    return {
        "systems": systems.to(case.dtype),
        "rhs": rhs.to(case.dtype),
        "sizes": sizes,
        "damping": 1e-2,
    }


def _obs_greedy(case: Case, g: torch.Generator) -> dict[str, Any]:
    """outputs, then size and group of every site; trait "tied" makes all of it exact."""
    outputs, *rest = case.extents
    sizes, groups = rest[::2], rest[1::2]
    inverses = [torch.zeros(0, dtype=F64)]
    for n in (size * group for size, group in zip(sizes, groups, strict=True)):
        # Integers, so that the product is the same whatever the number of threads; eight rows a
        # column keep the condition near (1 + 8 ** -0.5) ** 2 / (1 - 8 ** -0.5) ** 2 = 4.4.
        x = torch.randint(-4, 5, (8 * n, n), generator=g, dtype=F64)
        p = torch.eye(n, dtype=F64) if "tied" in case.traits else x.T @ x / max(8 * n, 1)
        inverses.append(p.flatten())
    columns = sum(size * group for size, group in zip(sizes, groups, strict=True))
    weight = torch.randn(columns, outputs, generator=g, dtype=F64)
    if "tied" in case.traits:
        weight = weight.round()
    return {
        "inverse": torch.cat(inverses).to(case.dtype),
        "weight": _laid_out(weight.to(case.dtype), case.traits),
        "sizes": sizes,
        "groups": groups,
    }


def _trajectory_distance(case: Case, g: torch.Generator) -> dict[str, Any]:
    """variants, rows, width; trait "near": features that differ in their last digits."""
    variants, rows, width = case.extents
    teacher = torch.randn(rows, width, generator=g)
    features = torch.randn(variants, rows, width, generator=g)
    if "near" in case.traits:
        teacher = teacher.to(case.dtype).float()
        features = teacher * (1 + 2 * torch.finfo(case.dtype).eps * features)
    if "zeros" in case.traits:  # rows of either, of both, of none
        features[:, ::3], teacher[1::2] = 0.0, 0.0
    if "scales" in case.traits:  # rows of all lengths that a float32 can have
        features *= 10.0 ** (60 * torch.rand(variants, rows, 1, generator=g) - 30)
        teacher *= 10.0 ** (60 * torch.rand(rows, 1, generator=g) - 30)
    features, teacher = features.to(case.dtype), teacher.to(case.dtype)
    if "rows first" in case.traits:
        features = features.transpose(0, 1).contiguous().transpose(0, 1)
    return {
        "features": _laid_out(features, case.traits),
        "teacher": _laid_out(teacher, case.traits),
    }


def _path_step(case: Case, g: torch.Generator) -> dict[str, Any]:
    """paths, units; a state from the middle of a path: some have entered, some enter now."""
    paths, units = case.extents

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=F64)

    threshold = 1 + uniform(paths, units)
    # A step raises a dual by up to 0.2, so that a fifth or so of those below now exceed theirs.
    dual = threshold - 0.6 + uniform(paths, units)
    kappa, alpha, nu = 10 + uniform(paths), 0.1 * uniform(paths), 0.5 + uniform(paths)
    gate = kappa[:, None] * (dual - threshold).clamp(min=0)
    entered = (dual > threshold) & (uniform(paths, units) > 0.1)  # others are caught up with
    crossing = torch.where(entered, (999 * uniform(paths, units)).floor(), float("inf"))
    mask = gate + 2 * uniform(paths, units) - 0.3
    state = {"mask": mask, "dual": dual, "gate": gate}
    inputs = {"gradient": torch.randn(paths, units, generator=g), "threshold": threshold}
    rates = {"kappa": kappa, "alpha": alpha, "nu": nu}
    return {
        **{name: values.to(case.dtype) for name, values in (state | rates).items()},
        **{k: _laid_out(v.to(case.dtype), case.traits) for k, v in inputs.items()},
        "crossing": crossing,
        "step": 1000.0,
    }


def _hard_concrete(case: Case, g: torch.Generator) -> dict[str, Any]:
    """Units of each site; traits "sublayers" and "hidden": with gates of these kinds, too."""
    sizes, hidden = list(case.extents), 33 if "hidden" in case.traits else 0
    sublayers = "sublayers" in case.traits
    gates = sum(sizes) + (len(sizes) if sublayers else 0) + hidden
    noise = torch.rand(gates, generator=g, dtype=F64)
    noise[::7], noise[3::7] = 0.0, 1.0
    shares = torch.rand(len(sizes), generator=g, dtype=F64)
    return {
        "alpha": _laid_out((6 * torch.randn(gates, generator=g)).to(case.dtype), case.traits),
        "noise": _laid_out(noise.to(case.dtype), case.traits),
        "sizes": sizes,
        "shares": shares / shares.sum(),
        "sublayers": sublayers,
        "hidden": hidden,
    }


def _masked_norm(case: Case, g: torch.Generator) -> dict[str, Any]:
    """rows, width; fractional gates, a third of them closed, unless a trait says how many are.

    Closed dimensions hold NaN and infinity. Rows lie at other heights and spread otherwise."""
    rows, width = case.extents
    gate = torch.rand(width, generator=g, dtype=F64) + 0.1
    closed = torch.rand(width, generator=g) < 1 / 3
    if {"open", "closed", "one"} & set(case.traits):
        closed[:] = "open" not in case.traits
        closed[width // 2 : width // 2 + 1] = "closed" in case.traits
    gate[closed] = 0.0
    if "open" in case.traits:
        gate[:] = 1.0
    spread = 10.0 ** torch.randint(-2, 3, (rows, 1), generator=g)
    x = spread * (torch.randn(rows, width, generator=g, dtype=F64) + 3)
    weight, bias = torch.randn(2, width, generator=g, dtype=F64)
    x[:, closed], weight[closed], bias[closed] = float("nan"), float("inf"), float("nan")
    x[1::2, closed] = -float("inf")
    return {
        "x": _laid_out(x.to(case.dtype), case.traits),
        "weight": weight.to(case.dtype),
        "bias": None if "no bias" in case.traits else bias.to(case.dtype),
        "gate": torch.stack([gate, gate.neg()], 1).to(case.dtype)[:, 0],
        "eps": 1e-5,
        "centered": "rms" not in case.traits,
    }


def _masked_norm_backward(case: Case, g: torch.Generator) -> dict[str, Any]:
    """The same, with what the forward pass found."""
    given = _masked_norm(case, g)
    _, mean, rstd = reference.masked_norm(**given)
    dy = torch.randn(case.extents, generator=g)
    dy[:, given["gate"] == 0] = float("nan")
    del given["eps"]
    return {
        "dy": _laid_out(dy.to(case.dtype), case.traits),
        **given,
        "mean": mean.to(case.dtype),
        "rstd": rstd.to(case.dtype),
    }


_MAKERS = {
    "mask_grad": _mask_grad,
    "fisher_outer": _fisher_outer,
    "greedy_rearrange": _greedy_rearrange,
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


def _cases(
    op: str,
    extents: list[tuple[int, ...]],
    dtypes: tuple[torch.dtype, ...] = (F32,),
    traits: tuple[tuple[str, ...], ...] = ((),),
) -> list[Case]:
    return [Case(op, *choice) for choice in product(extents, dtypes, traits)]


# Extents are chosen to hurt: nothing, one, primes, and one off the widths of packed panels (6 to
# 48), tiles (96, 192, 64, 128), AMX tiles (16, 32) and row chunks (256).
CASES = [
    *_cases(
        "mask_grad",
        [(0, 4, 2, 3), (1, 0, 2, 1), (1, 1, 1, 1), (3, 7, 5, 1), (2, 33, 3, 16), (5, 9, 129, 1)],
        (F32, BF16, F16),
        ((), ("valid",), ("packed",), ("gaps",), ("transposed",), ("valid", "gaps")),
    ),
    *_cases("mask_grad", [(2, 17, 4, 64), (1, 128, 1021, 1)], (F32, BF16), (("valid",),)),
    *_cases(
        "fisher_outer",
        [(0, 3), (5, 0), (1, 1), (7, 2, 0, 13), (255, 12, 47), (257, 49, 1), (33, 97, 5, 193)],
        (F32, BF16, F16),
        ((), ("gaps",), ("transposed",)),
    ),
    *_cases("fisher_outer", [(3,), (64, 769)]),
    *_cases(
        "greedy_rearrange",
        [(0, 4), (1, 1), (2, 0, 3), (3, 12, 7, 31), (2, 65, 128), (1, 257)],
        traits=((), ("tied",)),
    ),
    *_cases(
        "gram",
        [(0, 5), (3, 0), (1, 1), (37, 23), (256, 48), (257, 97), (511, 193)],
        (F32, BF16, F16),
        ((), ("valid",), ("columns",), ("gaps",), ("transposed",), ("valid", "columns", "sum32")),
    ),
    *_cases("gram", [(300, 771)], (F32, BF16), (("valid",), ("sum32",))),
    *_cases(
        "gram",
        [(31, 15), (32, 16), (33, 17), (63, 31), (64, 32), (65, 33), (255, 63), (256, 64)],
        (BF16,),
        ((), ("valid",), ("columns",), ("gaps",), ("transposed",), ("valid", "columns", "sum32")),
    ),
    *_cases("gram", [(257, 65), (513, 95), (768, 96), (1023, 191), (33001, 193)], (BF16,)),
    *_cases(
        "tuning_system",
        [(0, 1, 3), (3, 2, 0), (1, 1, 1), (5, 3, 7), (12, 8, 31), (97, 1, 65), (3, 67, 129)],
        (F32, BF16, F16, F64),
        ((), ("sum32",), ("gaps",)),
    ),
    *_cases("tuning_system", [(2, 211, 40), (193, 1, 257)]),
    *_cases(
        "block_lstsq",
        [(1,), (0, 3), (1, 0, 1, 2), (3, 12, 7, 31), (33, 64, 65), (5, 191, 192, 193)],
        (F32, F64),
    ),
    *_cases("block_lstsq", [(1, 385), (40, 577), (200, 400)], (F64,)),
    *_cases(
        "obs_greedy",
        [
            (3,),
            (4, 0, 1),
            (0, 5, 1),
            (1, 1, 1),
            (2, 0, 3, 1, 64, 1, 1),
            (5, 7, 1, 13, 2),
            (17, 63, 1, 64, 1, 65, 1),
            (1, 129, 1, 31, 1),
            (31, 3, 64, 5, 3, 2, 255, 97, 1),
            (150, 7, 8, 40, 1, 3, 31, 2, 33),
        ],
        (F32, F64),
        ((), ("tied",), ("gaps",), ("transposed",)),
    ),
    *_cases("obs_greedy", [(9, 2, 256), (7, 3, 300), (20, 449, 1)], (F32, F64)),
    *_cases(
        "trajectory_distance",
        [
            (0, 3, 5),
            (2, 0, 4),
            (3, 4, 0),
            (1, 1, 1),
            (5, 7, 3),
            (3, 47, 17),
            (2, 97, 257),
            (1, 193, 65),
        ],
        (F32, BF16, F16),
        ((), ("near",), ("zeros",), ("gaps",), ("transposed",), ("rows first",)),
    ),
    *_cases(
        "trajectory_distance",
        [(2, 1, 1), (3, 50, 9), (2, 25, 300)],
        (F32, BF16),
        (("scales",), ("scales", "zeros")),
    ),
    # So many variants that they are packed in several passes.
    *_cases("trajectory_distance", [(17, 257, 769)], (F32, BF16)),
    *_cases("trajectory_distance", [(1, 771, 40)]),
    # One off the chunks (1024) and the blocks (256) that units are cut into.
    *_cases(
        "path_step",
        [(0, 5), (3, 0), (1, 1), (2, 7), (1, 255), (3, 257), (2, 1023), (2, 1024), (5, 2049)],
        (F32, F64),
        ((), ("gaps",), ("transposed",)),
    ),
    # One off the chunks (1024) and the blocks (256) that gates are cut into, and more than a launch
    # takes (96).
    *_cases(
        "hard_concrete",
        [(0,), (1,), (3, 0, 7), (12, 1023, 12, 1025), (255, 256, 257, 2049), (2,) * 100],
        (F32, F64),
        ((), ("sublayers",), ("hidden",), ("sublayers", "hidden", "gaps")),
    ),
    # One off the vectors of a row (32), the warps of a block (8 rows), the columns of one (32), and
    # the rows that are summed in one piece (64 and 128).
    *(
        case
        for op in ("masked_norm", "masked_norm_backward")
        for case in _cases(
            op,
            [(0, 5), (3, 0), (1, 1), (7, 31), (8, 32), (9, 33), (65, 129), (129, 257)],
            (F32, F64),
            (
                *((), ("rms",), ("open",), ("closed",), ("one",), ("one", "rms"), ("no bias",)),
                *(("gaps",), ("transposed", "rms", "no bias")),
            ),
        )
    ),
    *_cases("masked_norm", [(70, 771)], (F32, F64)),
    *_cases("masked_norm_backward", [(330, 771)], (F32, F64)),
]
