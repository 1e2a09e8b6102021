"""Every operation beside plain PyTorch of the same precision.

    OMP_NUM_THREADS=1 pytest benchmarks/bench_ops.py --benchmark-group-by=group

The cases are those of ``tests/ops/cases.py``. On CUDA a timing includes a synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops.cases import BENCHMARKS, Case
from torch import Tensor

from fastprune import ops
from fastprune.ops import reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _mask_grad(x: Tensor, grad: Tensor, group: int, valid: Tensor) -> Tensor:
    products = (x * grad).masked_fill_(~valid[..., None], 0.0)
    return products.sum(1, dtype=torch.float32).unflatten(-1, (-1, group)).sum(-1)


def _fisher_outer(grads: Tensor, sizes: list[int]) -> list[Tensor]:
    return [g.T @ g for g in grads.split(sizes, dim=1)]


def _gram(x: Tensor, dtype: torch.dtype) -> Tensor:
    rows = x.float()
    return (rows.T @ rows).to(dtype)


def _tuning_system(
    gram: Tensor, weight: Tensor, cross: Tensor, group: int
) -> tuple[Tensor, Tensor]:
    w = weight.to(gram.dtype)
    units = w.shape[1] // group
    a = ((w.T @ w) * gram).view(units, group, units, group).sum((1, 3))
    return a, (cross * w.T).sum(1).view(units, group).sum(1)


def _block_lstsq(systems: Tensor, rhs: Tensor, sizes: list[int], damping: float) -> Tensor:
    """Batched, since the benchmark's systems have one size."""
    n = sizes[0]
    a = systems.view(-1, n, n)
    ridge = damping * a.diagonal(dim1=1, dim2=2).mean(1)[:, None].expand(-1, n)
    factor, _ = torch.linalg.cholesky_ex(a + ridge.diag_embed())
    return torch.cholesky_solve(rhs.view(len(a), n, -1), factor)


BASELINES: dict[str, Callable[..., Any]] = {
    "mask_grad": _mask_grad,
    "fisher_outer": _fisher_outer,
    "greedy_rearrange": reference.greedy_rearrange,
    "gram": _gram,
    "tuning_system": _tuning_system,
    "block_lstsq": _block_lstsq,
}


@pytest.mark.parametrize("case", BENCHMARKS, ids=str)
@pytest.mark.parametrize("backend", ["fastprune", "pytorch"])
def test_operation(benchmark: Any, case: Case, backend: str) -> None:
    arguments = case.arguments(DEVICE)
    function = getattr(ops, case.op) if backend == "fastprune" else BASELINES[case.op]

    def run() -> None:
        function(**arguments)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = str(case)
    benchmark.extra_info.update(device=str(DEVICE), threads=torch.get_num_threads())
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
