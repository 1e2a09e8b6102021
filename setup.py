"""Build driver. CMakeLists.txt owns the native build; this file finds its inputs and calls it.

Environment: FASTPRUNE_NATIVE=off installs pure Python, FASTPRUNE_CUDA=auto|on|off,
CMAKE_CUDA_ARCHITECTURES, MAX_JOBS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)
NATIVE = os.environ.get("FASTPRUNE_NATIVE", "on").lower() != "off"


def find_torch() -> Path | None:
    """Directory of a new enough torch, also outside pip's isolated build environment."""
    site = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    for found in metadata.distributions(name="torch", path=[*sys.path, *site]):
        directory = Path(str(found.locate_file("torch")))
        version = tuple(int(part) for part in found.version.split(".")[:2])
        if version >= OLDEST_TORCH and (directory / "include/torch/csrc/stable").is_dir():
            return directory
    return None


def find_tool(name: str) -> str:
    """A build tool: installed beside this Python, or on PATH."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        raise SystemExit(f"fastprune: {name} not found. Run `pip install {name}` and try again.")
    return path


class CMakeBuild(build_ext):
    """Builds every extension with one CMake run."""

    def get_ext_filename(self, fullname: str) -> str:
        # _native has no Python ABI, so its name carries none.
        if fullname.endswith("_native"):
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        torch = find_torch()
        if torch is None:
            raise SystemExit("fastprune: building needs torch>=2.11. Run `pip install torch`.")
        import pybind11

        build = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
        cmake = find_tool("cmake")
        configure = [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),
            "CMAKE_INSTALL_PREFIX": str(Path(self.build_lib).resolve()),
            "FASTPRUNE_TORCH_DIR": str(torch),
            "FASTPRUNE_CUDA": os.environ.get("FASTPRUNE_CUDA", "auto"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        if architectures := os.environ.get("CMAKE_CUDA_ARCHITECTURES"):
            options["CMAKE_CUDA_ARCHITECTURES"] = architectures
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        try:
            subprocess.check_call([*configure, *(f"-D{k}={v}" for k, v in options.items())])
            subprocess.check_call([cmake, "--build", str(build), "--parallel", jobs])
            subprocess.check_call([cmake, "--install", str(build)])
        except subprocess.CalledProcessError:
            raise SystemExit(
                "fastprune: the native build failed; the reason is above. It needs a C++20 "
                "compiler (and nvcc for CUDA). FASTPRUNE_CUDA=off builds the CPU half alone; "
                "FASTPRUNE_NATIVE=off installs pure Python, which is correct but slow."
            ) from None


native = [Extension("fastprune._native", []), Extension("fastprune._host", [])]
setup(
    ext_modules=native if NATIVE else [],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=["torch>=2.11"] if NATIVE and find_torch() is None else [],
)
