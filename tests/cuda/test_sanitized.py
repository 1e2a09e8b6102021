"""The emulated CUDA sources touch no memory that is not theirs, and a test would see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import RUN, build

pytestmark = pytest.mark.usefixtures("gcc")


def run_sanitized(*command: str) -> subprocess.CompletedProcess[str]:
    preload = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(path).is_absolute() for path in preload):
        pytest.skip("GCC's sanitizer libraries are not installed")
    # Python itself leaks by design; only our accesses are of interest.
    environment = {**os.environ, "LD_PRELOAD": " ".join(preload), "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=RUN.parent, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def sanitized(gcc: None) -> Path:
    return build(sanitized=True)


def test_sanitizers_find_nothing(sanitized: Path) -> None:
    done = run_sanitized(str(RUN), "--sanitized")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("columns", "results"), [(10, 121), (11, 120)], ids=["read", "write"])
def test_sanitizers_find_an_overrun(sanitized: Path, columns: int, results: int) -> None:
    """The control: a site of 11 units where the arrays hold one element less."""
    done = run_sanitized(
        "-c",
        "import emulator, numpy as np\n"
        f"e = emulator.Emulator({str(sanitized)!r})\n"
        f"e.fisher_outer(np.ones((4, {columns}), 'f'), [11], np.zeros({results}, 'f'))",
    )
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr, done.stderr
