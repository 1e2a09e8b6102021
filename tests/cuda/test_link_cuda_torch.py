"""The native library needs nothing of torch that the CUDA build of torch 2.11 does not export.

Built against CPU torch, it is loaded by whatever torch the user has; this machine cannot try that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "fastprune" / "_native.so"
EXPORTED = Path(__file__).with_name("torch_2_11_cuda_symbols.txt")
# The C shims by their prefixes, and any mangled name from torch's own C++ namespaces.
TORCH = re.compile(r"^(aoti_|torch_)|^_Z\w*(3c10|2at|5torch)")


def needed_from_torch() -> set[str]:
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1].partition("@")[0] for line in listing.splitlines()}
    return {name for name in names if TORCH.match(name)}


@pytest.fixture(autouse=True)
def _need_cuda_library() -> None:
    if not LIBRARY.is_file():
        pytest.skip("fastprune/_native.so is not built")
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    if b"sm_90" not in LIBRARY.read_bytes():
        pytest.skip("fastprune/_native.so was built without CUDA kernels")


def test_cuda_torch_exports_every_needed_symbol() -> None:
    lines = EXPORTED.read_text().splitlines()
    exported = {line for line in lines if not line.startswith("#")}
    needed = needed_from_torch()
    assert "aoti_torch_get_current_cuda_stream" in needed  # weak, and only CUDA torch has it
    assert needed <= exported, f"not in CUDA torch 2.11: {sorted(needed - exported)}"
