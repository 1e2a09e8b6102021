"""What ``import fastprune`` loads: every command and worker waits for it."""

from __future__ import annotations

import subprocess
import sys

LATE = ("datasets", "matplotlib", "pandas", "pyarrow", "ray", "scipy.stats", "sklearn")
"""Libraries that take long, each imported by the few functions that need it."""


def test_what_takes_long_is_imported_when_it_is_needed():
    code = f"import fastprune.cli, sys; print(*(n for n in {LATE} if n in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
