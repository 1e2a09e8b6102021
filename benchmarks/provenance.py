"""Where and with what numbers were made.

python benchmarks/provenance.py cuda    # says it, and fails if no native kernels run there
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fastprune.ops import native_status
from fastprune.report import versions

ROOT = Path(__file__).resolve().parent.parent

_SOURCES = (".", ":!benchmarks/results")


def _commit() -> str:
    if not shutil.which("git"):  # a machine that was lent may have none
        return "unknown"
    describe, changed = ["describe", "--always"], ["diff", "--quiet", "HEAD", "--", *_SOURCES]
    found = subprocess.run(["git", *describe], cwd=ROOT, capture_output=True, text=True)
    # Results are no part of what makes them: others may have been filed just before.
    dirty = subprocess.run(["git", *changed], cwd=ROOT, capture_output=True).returncode == 1
    return found.stdout.strip() + "-dirty" * dirty or "unknown"


# Asked when a program starts: by its end, the sources may be others than those it runs.
_COMMIT = _commit()


def provenance() -> dict[str, Any]:
    """Device, threads, versions and commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    return {
        "device": device,
        "threads": threads,
        "versions": versions(),
        "commit": _COMMIT,
    }


def main() -> int:
    status, made = native_status(), provenance()
    for name, value in (status | made).items():
        print(f"{name}: {value}")
    native = status[sys.argv[1]] == "native"
    print(
        f"{made['device']}, commit {made['commit']}, {'native' if native else 'NO native'} kernels"
    )
    return 0 if native else 1


if __name__ == "__main__":
    sys.exit(main())
