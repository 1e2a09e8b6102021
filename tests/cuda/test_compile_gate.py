"""Every CUDA source compiles for the architectures we ship, without spilling registers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "kernels").glob("*.cu"))
HEADERS = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh"))
PASSED = ROOT / "build" / "compile_gate"
FLAGS = [
    "-std=c++20", "-O3", "--Werror=all-warnings", "-Xcompiler=-Wall",
    "-Xptxas=-warn-spills,-warn-lmem-usage,-Werror",
]  # fmt: skip


def nvcc() -> str | None:
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return str(toolkit) if toolkit.is_file() else shutil.which("nvcc")


def compile_for(architecture: int, source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    return subprocess.run(
        [nvcc() or "nvcc", *FLAGS, target, "-c", str(source), "-o", str(output)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(autouse=True)
def _need_nvcc() -> None:
    if nvcc() is None:
        pytest.skip("nvcc is not installed: CUDA sources cannot be compiled")


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills(source: Path, architecture: int, tmp_path: Path) -> None:
    content = hashlib.sha256(" ".join([nvcc() or "", *FLAGS]).encode())
    for path in (source, *HEADERS):
        content.update(path.read_bytes())
    stamp = PASSED / f"{source.stem}-{architecture}-{content.hexdigest()[:16]}"
    if stamp.exists():
        return
    done = compile_for(architecture, source, tmp_path / "out.o")
    assert done.returncode == 0, done.stdout + done.stderr
    PASSED.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def test_the_gate_can_fail(tmp_path: Path) -> None:
    """A kernel that cannot keep its values in registers is refused."""
    source = tmp_path / "spills.cu"
    source.write_text(
        "__global__ void __launch_bounds__(1024, 2) kernel(const double* in, double* out) {\n"
        "  double a[64];\n"
        "  for (int i = 0; i < 64; ++i) a[i] = in[threadIdx.x + i * 1024];\n"
        "  for (int i = 0; i < 64; ++i)\n"
        "    for (int j = 0; j < 64; ++j) a[i] = a[i] * a[j] + a[63 - i];\n"
        "  for (int i = 0; i < 64; ++i) out[threadIdx.x + i * 1024] = a[i];\n"
        "}\n"
    )
    done = compile_for(90, source, tmp_path / "out.o")
    assert done.returncode != 0
    assert "local memory" in (done.stdout + done.stderr).lower()
