"""The real model and data that most measurements are made on; they are not in the repository."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent


def assets() -> Path:
    """The directory with ``models/minilm-sst2`` and ``data/sst2``; the program ends without it."""
    found = Path(os.environ.get("FASTPRUNE_ASSETS", _REPOSITORY.parent / "shared"))
    if not (found / "models" / "minilm-sst2").is_dir():
        sys.exit(
            f"error: {found} does not hold the classifier of the measurements "
            "(models/minilm-sst2) and its data (data/sst2); name a directory that does in "
            "FASTPRUNE_ASSETS, see CONTRIBUTING.md"
        )
    return found
