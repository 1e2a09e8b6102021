"""Declarations of the families that fastprune knows; importing this registers them."""

from __future__ import annotations

from fastprune.structure.families import decoders, encoders, vision

__all__ = ["decoders", "encoders", "vision"]
