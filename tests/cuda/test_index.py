"""Index arithmetic beyond 2^31, the batching of ragged sites and the cutting of work, in C++."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"


@pytest.mark.usefixtures("gcc")
@pytest.mark.parametrize("source", ["index_test.cpp", "sites_test.cpp", "syrk_plan_test.cpp"])
def test_native(source: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    flags = ["-std=c++20", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        ["g++", *flags, "-I", str(CSRC), str(HERE / source), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
