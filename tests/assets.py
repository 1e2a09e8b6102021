"""The real model and data that tests and benchmarks may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with the real model and data; see CONTRIBUTING.md."""
    root = Path(__file__).resolve().parent.parent
    path = Path(os.environ.get("FASTPRUNE_ASSETS", root.parent / "shared"))
    if not (path / "models" / "minilm-sst2" / "config.json").is_file():
        pytest.skip(f"no assets at {path}: set FASTPRUNE_ASSETS to the folder that holds them")
    return path


@pytest.fixture(scope="session")
def sst2(assets: Path) -> dict[str, str]:
    """Paths of the fine-tuned classifier and of the SST-2 files."""
    return {
        "model": str(assets / "models" / "minilm-sst2"),
        "train": str(assets / "data" / "sst2" / "train.tsv"),
        "validation": str(assets / "data" / "sst2" / "validation.tsv"),
    }
