"""Without the native library every operation still exists and computes the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fastprune

COMPUTE = """
import torch
from fastprune import ops
x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
blocks = ops.fisher_outer(x.flatten(0, 1), [2, 4])
system = ops.tuning_system(ops.gram(x), x[0], x.flatten(0, 1)[:6, :5].double(), 3)
heads, filters = ops.budget_search([3.0, 1.0], [2.0, 2.0, 1.0], 2.0, 1.0, [4.0])
chosen, exact = ops.allocate([[4.0, 3.0, 0.0], [2.0, 1.0]], [[0, 1, 2], [1, 2]], [3.0, 0.5])
norm = (x[0], x[1, 0], x[1, 1], torch.tensor([1.0, 0, 0.5, 0.25, 0, 1]))
results = [
    ops.mask_grad(x, x, 2),
    blocks,
    ops.gram(x),
    ops.greedy_rearrange(blocks, [2, 4], torch.tensor([1.0, 0, 1, 0, 1, 0])),
    *system,
    *ops.block_lstsq(system[0].flatten(), system[1], [2], 0.1),
    *ops.path_step(
        *(torch.linspace(low, low + 2, 8).view(2, 4) for low in (0, -1, -0.5)),
        torch.full((2, 4), float("inf"), dtype=torch.float64),
        *torch.linspace(-1, 1, 16).view(2, 2, 4),
        kappa=torch.tensor([10.0, 20]), alpha=torch.tensor([0.1, 0.2]), nu=torch.ones(2), step=3,
    ),
    *ops.obs_greedy(torch.eye(4).flatten(), x[0, :4], [2], [2]),
    ops.trajectory_distance(x, x[0]),
    *ops.hard_concrete(
        x[0, 0], torch.linspace(0, 1, 6), [2, 1], torch.full((2,), 0.5, dtype=torch.float64),
        sublayers=True, hidden=1,
    ),
    *ops.masked_norm(*norm, eps=1e-5, centered=True),
    *ops.masked_norm_backward(x[1], *norm, *torch.ones(2, 5), centered=True),
    torch.tensor(heads),
    torch.tensor(filters),
    torch.tensor(chosen),
    torch.tensor(exact),
]
"""

CHECK = """
status = ops.native_status()
assert not status["native"] and status["reason"] == "FASTPRUNE_NATIVE=off", status
assert status["cpu"] == status["cuda"] == "reference" and status["build"] is None, status
torch.library.opcheck(torch.ops.fastprune.mask_grad.default, (x, x, 2, None, None))
torch.library.opcheck(torch.ops.fastprune.gram.default, (ops.gram(x), x[0], None, None))
"""


def test_fallback_agrees_with_native(tmp_path: Path) -> None:
    path = tmp_path / "results.pt"
    script = f"{COMPUTE}{CHECK}torch.save(results, {str(path)!r})"
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FASTPRUNE_NATIVE": "off"},
        check=True,
        timeout=120,
    )
    here: dict[str, Any] = {}
    exec(COMPUTE, here)
    for native, fallback in zip(here["results"], torch.load(path), strict=True):
        assert native.dtype == fallback.dtype
        # A handful of float32 products per element.
        torch.testing.assert_close(native, fallback, rtol=1e-5, atol=1e-5)


def test_a_missing_or_broken_library_warns_once_and_works(tmp_path: Path) -> None:
    """An installation whose library is gone, or is not one."""
    package = Path(fastprune.__file__).parent
    copy = tmp_path / "fastprune"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("_native.so", "__pycache__"))
    script = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {COMPUTE.replace(chr(10), chr(10) + "    ")}
ours = [w for w in caught if "without its native kernels" in str(w.message)]
assert len(ours) == 1, caught
"""
    for broken in (False, True):
        if broken:
            (copy / "_native.so").write_bytes(b"not a library")
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
