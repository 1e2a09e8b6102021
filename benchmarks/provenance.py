"""Where and with what numbers were made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from fastprune.report import versions

ROOT = Path(__file__).resolve().parent.parent


def provenance() -> dict[str, Any]:
    """Device, threads, versions and commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    return {"device": device, "threads": threads, "versions": versions(), "commit": commit}
