"""What the machine has: Python, a compiler, a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

MINIMUM_PYTHON = (3, 10)


class SetupError(Exception):
    """A setup that cannot go on. One line: the cause, then the cure."""


def check_machine() -> None:
    """Raise SetupError unless this Python and the compiler can build the package."""
    check_python(sys.version_info[:3])
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            "this Python has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise SetupError(
            "this Python has no C headers: install them (Debian, Ubuntu: apt install python3-dev)"
        )
    check_compiler()


def check_python(version: tuple[int, ...]) -> None:
    """Raise SetupError when ``version`` is too old."""
    if version < MINIMUM_PYTHON:
        raise SetupError(
            f"Python {'.'.join(map(str, version))} is too old: name one that is 3.10 or newer, "
            "for instance make setup PYTHON=python3.12"
        )


def check_compiler() -> None:
    """Raise SetupError unless the compiler that CMake will pick accepts a C++20 program."""
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    found = next((name for name in candidates if shutil.which(name.split()[0])), None)
    if found is None:
        raise SetupError(
            f"no C++ compiler found (looked for {', '.join(candidates)}): install one (Debian, "
            "Ubuntu: apt install g++; macOS: xcode-select --install), or name it in CXX"
        )
    trial = subprocess.run(
        [*found.split(), "-std=c++20", "-x", "c++", "-fsyntax-only", "-"],
        input="#include <concepts>\nint main() {}\n",
        text=True,
        capture_output=True,
    )
    if trial.returncode:
        raise SetupError(
            f"{found} cannot compile C++20: install gcc 11, clang 14 or newer, or name one in CXX"
        )


def has_gpu() -> bool:
    """Whether an NVIDIA driver lists at least one GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listing.returncode == 0 and "GPU" in listing.stdout


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading ``major.minor`` of a version; empty when the text starts with no number."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else ()
