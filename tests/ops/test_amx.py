"""bfloat16 without AMX tiles, as on most CPUs: the same error bounds hold.

The tests of this process use the tiles where there are any; FASTPRUNE_AMX=off takes them away.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from fastprune import ops

WITHOUT_AMX = {**os.environ, "FASTPRUNE_AMX": "off"}

# The product of a number below 2^-126 and a large one, which only AMX takes for zero.
SUBNORMAL = """
import torch
from fastprune import ops
x = torch.tensor([[2.0**-130, 2.0**100]], dtype=torch.bfloat16)
product = ops.gram(x)[0, 1].item()
"""


def test_the_bounds_hold_without_amx() -> None:
    tests = Path(__file__).with_name("test_ops.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tests), "-k", "gram and bfloat16"],
        env=WITHOUT_AMX,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout


def test_subnormal_numbers_count_without_amx() -> None:
    script = f"{SUBNORMAL}assert product == 2.0**-30, product"
    subprocess.run([sys.executable, "-c", script], env=WITHOUT_AMX, check=True, timeout=120)


def test_subnormal_numbers_are_exact_or_zero() -> None:
    here: dict[str, float] = {}
    exec(SUBNORMAL, here)
    assert here["product"] in (0.0, 2.0**-30)


def test_what_is_not_finite_stays_so() -> None:
    x = torch.ones(40, 70, dtype=torch.bfloat16)
    x[7, 3], x[9, 50] = float("nan"), float("inf")
    out = ops.gram(x)
    assert out[3].isnan().all()
    assert out[50, 50] == float("inf")
    x[7, 3], x[9, 50] = 1.0, 1.0
    finite = torch.ones(70, dtype=torch.bool)
    finite[[3, 50]] = False
    assert torch.equal(out[finite][:, finite], ops.gram(x)[finite][:, finite])
