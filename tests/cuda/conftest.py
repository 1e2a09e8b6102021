from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

EMULATOR = Path(__file__).resolve().parents[1] / "emulator"
sys.path.insert(0, str(EMULATOR))


@pytest.fixture(scope="session")
def gcc() -> None:
    """The emulator is built with GCC; without it its tests are skipped."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH: the kernels cannot be emulated")
