"""Every native operation beside the honest alternative in the same precision.

    pytest benchmarks/bench_ops.py --benchmark-only

``extra_info`` holds what ``compare`` and ``conftest.compared`` measured and derived; see
benchmarks/README.md. Shapes are those that Transformers of base size bring.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import baselines
import pytest
import textbook
import torch
from torch import Tensor

from fastprune import ops

DAMPING = 1e-2
BOTH_DTYPES = ("float32", "bfloat16")

Shape = tuple[Any, ...]
Compared = Callable[..., None]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every run of a case sees the same inputs, which are made on the CPU."""
    torch.manual_seed(0)


def _normal(device: torch.device, *extents: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*extents).to(device, dtype)


def _each_dtype(*extents: tuple[int, ...]) -> list[Shape]:
    return [(*shape, dtype) for shape, dtype in product(extents, BOTH_DTYPES)]


@pytest.mark.shapes(
    cpu=_each_dtype((32, 128, 3072, 1), (32, 128, 12, 64)),
    cuda=[(256, 128, 3072, 1, "bfloat16"), (256, 128, 12, 64, "bfloat16")],
    tiny=_each_dtype((2, 8, 32, 1), (2, 8, 2, 16)),
)
def test_mask_grad(compared: Compared, device: torch.device, shape: Shape) -> None:
    """samples, tokens, units, group."""
    samples, tokens, units, group, dtype = shape
    extents = (samples, tokens, units * group)
    x, grad = (_normal(device, *extents, dtype=getattr(torch, dtype)) for _ in range(2))
    compared(
        ours=lambda: ops.mask_grad(x, grad, group),
        baselines={"eager": lambda: baselines.mask_grad(x, grad, group)},
        rounds=9,
        flops=2 * x.numel(),
        bytes=2 * x.nbytes + 4 * samples * units,
    )


@pytest.mark.shapes(cpu=[(12, 2048, 768)], cuda=[(12, 2048, 3072)], tiny=[(2, 16, 32)])
def test_fisher_outer(compared: Compared, device: torch.device, shape: Shape) -> None:
    """sites, rows, units; into blocks that exist already."""
    sites, rows, units = shape
    grads = _normal(device, rows, sites * units)
    blocks = torch.zeros(sites * units * units, device=device)
    by_site = grads.view(rows, sites, units)
    left, right, out = by_site.permute(1, 2, 0), by_site.transpose(0, 1), blocks.clone()
    compared(
        ours=lambda: ops.fisher_outer(grads, [units] * sites, out=blocks),
        baselines={"bmm": lambda: torch.bmm(left, right, out=out.view(sites, units, units))},
        flops=sites * rows * units * (units + 1),
        bytes=grads.nbytes + 2 * blocks.nbytes,
    )


@pytest.mark.shapes(
    cpu=[(1, 1, units, rows) for units, rows in product((1536, 3072), (64, 2048))],
    cuda=[(1, 1, 3072, 2048), (1, 12, 3072, 2048), (12, 12, 3072, 2048)],
    tiny=[(2, 2, 32, 8)],
)
def test_greedy_rearrange(compared: Compared, device: torch.device, shape: Shape) -> None:
    """problems, sites, units, rows of gradients. Both ways have to give the same masks.

    Gradients are small integers, so both are exact in float32 (sums stay below 2^24).
    """
    problems, sites, units, rows = shape
    grads = torch.randint(-2, 3, (rows, sites * units)).float().to(device)
    blocks = ops.fisher_outer(grads, [units] * sites)
    kept = [round(units * (problem + 1) / (problems + 1)) for problem in range(problems)]
    masks = torch.zeros(problems, sites, units, device=device)
    for mask, count in zip(masks, kept, strict=True):
        mask[:, :count] = 1.0
    masks = masks.flatten(1)
    results: dict[str, Tensor] = {}

    def ours() -> None:
        results["ours"] = ops.greedy_rearrange(blocks, [units] * sites, masks)

    def loop() -> None:
        results["textbook"] = torch.cat(
            [
                textbook.greedy_rearrange(of_site, mask)
                for of_problem in masks
                for of_site, mask in zip(
                    grads.split(units, dim=1), of_problem.split(units), strict=True
                )
            ]
        ).view(masks.shape)

    steps = sum(kept)
    joined = sum(units - count for count in kept)  # rows of F that the first r sums
    compared(
        ours=ours,
        baselines={"textbook loop": loop},
        once=["textbook loop"],
        flops=sites * (joined * units + sum(n * (2 * units + 2 * (units - n)) for n in kept)),
        bytes=sites * 4 * units * (joined + 2 * steps),
    )
    assert torch.equal(results["ours"], results["textbook"])


@pytest.mark.shapes(
    cpu=_each_dtype((2048, 768, 384), (2048, 3072, 1536)),
    cuda=_each_dtype((32768, 768, 384), (32768, 3072, 1536)),
    tiny=_each_dtype((64, 32, 16)),
)
def test_gram(compared: Compared, device: torch.device, shape: Shape) -> None:
    """rows, columns, kept columns; 30 % of the rows are padding."""
    rows, width, kept, name = shape
    dtype = getattr(torch, name)
    x = _normal(device, rows, width, dtype=dtype)
    valid = (torch.rand(rows) > 0.3).to(device)
    columns = torch.randperm(width)[:kept].sort().values.to(device)
    sums, other_sums = (
        torch.zeros(kept, kept, dtype=torch.float64, device=device) for _ in range(2)
    )
    plain = {"gather + GEMM": lambda: baselines.gram(x, columns, valid, other_sums)}
    if device.type == "cuda" and dtype == torch.bfloat16:
        plain["gather + tensor-core GEMM"] = lambda: baselines.gram_mixed(
            x, columns, valid, other_sums
        )
    counted = int(valid.sum())
    compared(
        ours=lambda: ops.gram(x, columns=columns, valid=valid, out=sums),
        baselines=plain,
        flops=counted * kept * (kept + 1),
        bytes=counted * kept * x.element_size() + 2 * sums.nbytes,
        # PyTorch has no bfloat16 product with float32 sums for the CPU to be held to.
        arithmetic=dtype if device.type == "cuda" else torch.float32,
    )


@pytest.mark.shapes(
    cpu=[(12, 64, 768), (3072, 1, 768)],
    cuda=[(12, 64, 768), (3072, 1, 768)],
    tiny=[(2, 8, 16)],
)
def test_tuning_system(compared: Compared, device: torch.device, shape: Shape) -> None:
    """units, group, outputs."""
    units, group, outputs = shape
    columns = units * group
    weight = _normal(device, outputs, columns)
    gram = torch.eye(columns, dtype=torch.float64, device=device)
    cross = _normal(device, columns, outputs, dtype=torch.float64)
    compared(
        ours=lambda: ops.tuning_system(gram, weight, cross, group),
        baselines={"matmul": lambda: baselines.tuning_system(gram, weight, cross, group)},
        flops=outputs * columns * (columns + 1) + 2 * cross.numel(),
        bytes=weight.nbytes + gram.nbytes + cross.nbytes + 8 * units * units,
        # The CPU multiplies W in float64, CUDA in float32.
        arithmetic=torch.float64 if device.type == "cpu" else torch.float32,
    )


def _systems(device: torch.device, sizes: list[int], columns: int) -> tuple[list[Tensor], Tensor]:
    """Well-conditioned systems, and all their right-hand sides."""
    factors = [torch.randn(n, n + 8, dtype=torch.float64) for n in sizes]
    systems = [(f @ f.T / len(f) + torch.eye(len(f))).to(device) for f in factors]
    return systems, _normal(device, sum(sizes), columns, dtype=torch.float64)


def _solve_work(sizes: list[int], columns: int) -> dict[str, float]:
    """Cholesky of the lower triangles and two triangular solves per right-hand side."""
    return {
        "flops": sum(n**3 / 3 + 2 * n * n * columns for n in sizes),
        "bytes": sum(8 * (n * (n + 1) / 2 + 2 * n * columns) for n in sizes),
        "arithmetic": torch.float64,
    }


@pytest.mark.shapes(cpu=[(1000, 64, 1)], cuda=[(1000, 64, 1)], tiny=[(8, 16, 1)])
def test_ragged_lstsq(compared: Compared, device: torch.device, shape: Shape) -> None:
    """systems, most unknowns (from one on), right-hand sides."""
    count, largest, columns = shape
    sizes = torch.randint(1, largest + 1, (count,)).tolist()
    systems, rhs = _systems(device, sizes, columns)
    sides = list(rhs.split(sizes))
    flat = torch.cat([system.flatten() for system in systems])
    padded = baselines.pad_systems(systems, sides)
    compared(
        ours=lambda: ops.block_lstsq(flat, rhs, sizes, DAMPING),
        baselines={
            "cholesky loop": lambda: baselines.cholesky_loop(systems, sides, DAMPING),
            "padded cholesky": lambda: baselines.cholesky_batched(*padded, DAMPING),
        },
        **_solve_work(sizes, columns),
    )


@pytest.mark.shapes(
    cpu=[(12, 1536, 1), (12, 1536, 768)], cuda=[(12, 1536, 1), (12, 1536, 768)], tiny=[(2, 32, 3)]
)
def test_equal_lstsq(compared: Compared, device: torch.device, shape: Shape) -> None:
    """systems, unknowns, right-hand sides."""
    count, unknowns, columns = shape
    sizes = [unknowns] * count
    systems, rhs = _systems(device, sizes, columns)
    batch, sides = torch.stack(systems), rhs.view(count, unknowns, columns)
    compared(
        ours=lambda: ops.block_lstsq(batch.flatten(), rhs, sizes, DAMPING),
        baselines={
            "batched cholesky": lambda: baselines.cholesky_batched(batch, sides, DAMPING),
            "cholesky loop": lambda: baselines.cholesky_loop(systems, list(sides), DAMPING),
            "batched solve": lambda: baselines.solve_batched(batch, sides, DAMPING),
        },
        rounds=3,
        **_solve_work(sizes, columns),
    )


@pytest.mark.shapes(
    cpu=[
        (1, 1536, 0, 32, 384, "float64"),
        (6, 1536, 12, 32, 384, "float64"),
        (6, 1536, 12, 32, 384, "float32"),
    ],
    cuda=[(12, 3072, 12, 64, 768, "float64"), (12, 3072, 12, 64, 768, "float32")],
    tiny=[(2, 40, 3, 4, 7, "float64"), (2, 40, 3, 4, 7, "float32")],
)
def test_obs_greedy(compared: Compared, device: torch.device, shape: Shape) -> None:
    """layers, filters, heads, columns per head, outputs: an FFN and an attention site a layer."""
    layers, filters, heads, head_size, outputs, dtype = shape
    kinds = [(filters, 1), (heads, head_size)] * layers
    sizes, groups = ([kind[i] for kind in kinds if kind[0]] for i in range(2))
    columns = [size * group for size, group in zip(sizes, groups, strict=True)]
    arithmetic = getattr(torch, dtype)
    systems, weight = _systems(device, columns, outputs)
    inverses = [torch.linalg.inv(system).to(arithmetic) for system in systems]
    weight = weight.to(arithmetic)
    flat = torch.cat([inverse.flatten() for inverse in inverses])
    results: dict[str, Tensor] = {}

    def ours() -> None:
        results["ours"] = ops.obs_greedy(flat, weight, sizes, groups)[1]

    def direct() -> None:
        parts = zip(inverses, weight.split(columns), groups, strict=True)
        results["direct"] = torch.cat([textbook.obs_greedy(*part)[1] for part in parts])

    compared(
        ours=ours,
        baselines={"direct rank-one": direct},
        rounds=5,
        once=["direct rank-one"],
        flops=sum(n**3 + n * n * outputs for n in columns),
        bytes=flat.nbytes / 2 + weight.nbytes,
        arithmetic=arithmetic,
    )
    # Both are the same mathematics; near ties may fall either way, and the errors hardly differ.
    torch.testing.assert_close(results["ours"], results["direct"], rtol=1e-3, atol=0)


@pytest.mark.shapes(
    cpu=_each_dtype((16, 768, 384), (16, 768, 768)),
    cuda=_each_dtype((64, 768, 384), (64, 768, 768)),
    tiny=_each_dtype((2, 24, 16)),
)
def test_trajectory_distance(compared: Compared, device: torch.device, shape: Shape) -> None:
    """variants, rows, width. The teacher's part of the baselines is prepared beforehand.

    The work is that of the triangle of U D^T + D U^T, in which nothing cancels; Gram matrices
    alone would take half of it.
    """
    variants, rows, width, name = shape
    teacher = _normal(device, rows, width)
    features = (teacher + 0.1 * _normal(device, variants, rows, width)).to(getattr(torch, name))
    teacher = teacher.to(features.dtype)
    distances = torch.zeros(variants, dtype=torch.float64, device=device)
    unit = baselines.unit_rows(teacher)
    gram = unit @ unit.T
    compared(
        ours=lambda: ops.trajectory_distance(features, teacher, out=distances),
        baselines={
            "bmm": lambda: baselines.trajectory_distance(features, gram),
            "bmm of differences": lambda: baselines.trajectory_distance_of_differences(
                features, unit
            ),
        },
        flops=2 * variants * rows * (rows + 1) * width,
        bytes=features.nbytes + teacher.nbytes + 2 * distances.nbytes,
    )


@pytest.mark.shapes(
    cpu=[(1, 9288), (8, 9288), (8, 37008)],
    cuda=[(1, 37008), (8, 37008)],
    tiny=[(2, 40)],
)
def test_path_step(compared: Compared, device: torch.device, shape: Shape) -> None:
    """paths, units: those of MiniLM and of BERT-base."""
    paths, units = shape
    gradient = _normal(device, paths, units)
    threshold = torch.ones(paths, units, device=device)
    rates = torch.tensor([[10.0], [1e-3], [1.0]], device=device).expand(3, paths)
    kappa, alpha, nu = (rate.contiguous() for rate in rates)

    def start() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gate, dual = torch.zeros(2, paths, units, device=device)
        never = torch.full((paths, units), float("inf"), dtype=torch.float64, device=device)
        return torch.ones_like(gate), dual, gate, never

    ours, theirs = start(), start()
    compared(
        ours=lambda: ops.path_step(
            *ours, gradient, threshold, kappa=kappa, alpha=alpha, nu=nu, step=0.0
        ),
        baselines={
            "eager": lambda: baselines.path_step(theirs, gradient, threshold, rates[..., None], 0.0)
        },
        rounds=9,
        flops=10 * paths * units,
        # Masks, duals and gates both ways, crossings and two inputs one way: few units enter.
        bytes=(8 * 4 + 8) * paths * units,
    )


@pytest.mark.shapes(
    cpu=[(6, 12, 1536, 384), (12, 12, 3072, 768)], cuda=[(12, 12, 3072, 768)], tiny=[(2, 2, 8, 4)]
)
def test_hard_concrete(compared: Compared, device: torch.device, shape: Shape) -> None:
    """layers, heads, filters, hidden size: all gates of MiniLM and of BERT-base."""
    layers, heads, filters, hidden = shape
    sizes = [heads, filters] * layers
    count = sum(sizes) + len(sizes) + hidden
    alpha, noise = _normal(device, count), torch.rand(count, device=device)
    shares = torch.full((len(sizes),), 1 / len(sizes), dtype=torch.float64, device=device)
    options = {"sublayers": True, "hidden": hidden}
    compared(
        ours=lambda: ops.hard_concrete(alpha, noise, sizes, shares, **options),
        baselines={
            name: lambda outer=outer: baselines.hard_concrete(
                alpha, noise, sizes, shares, hidden, outer=outer
            )
            for name, outer in (("outer product", True), ("means", False))
        },
        rounds=9,
        flops=30 * count,
        bytes=5 * 4 * count,
    )


@pytest.mark.shapes(
    cpu=[(4096, 768, 768), (4096, 768, 384)], cuda=[(65536, 768, 768)], tiny=[(4, 16, 12)]
)
def test_masked_norm(compared: Compared, device: torch.device, shape: Shape) -> None:
    """rows, width, kept: forward and backward of a layer that is trained, gates included."""
    rows, width, kept = shape
    gate = torch.zeros(width)
    gate[torch.randperm(width)[:kept]] = 1.0
    inputs = (_normal(device, rows, width), *_normal(device, 2, width), gate.to(device))
    learnt = [values.clone().requires_grad_() for values in inputs]
    dy = _normal(device, rows, width)

    def trained(norm: Callable[..., Tensor], **options: Any) -> Callable[[], object]:
        return lambda: torch.autograd.grad(norm(*learnt, **options), learnt, dy)

    compared(
        ours=trained(ops.normalise_kept, eps=1e-5, centered=True),
        baselines={
            "gathered": trained(baselines.masked_norm_gathered),
            "all": trained(baselines.masked_norm_dense),
        },
        rounds=31,
        flops=25 * rows * width,
        bytes=5 * dy.nbytes,
    )
