"""What the demo runs on: a real model and real text that every installation has."""

from __future__ import annotations

from fastprune.demo.corpus import text_corpus
from fastprune.demo.encoder import encoder_directory

__all__ = ["encoder_directory", "text_corpus"]
