"""The small model: building, saving and reloading it."""

from __future__ import annotations

from fastprune.compaction import registration as registration  # teaches from_pretrained
from fastprune.compaction.checkpoint import load_pretrained, save_pretrained
from fastprune.compaction.proof import ProofReport, SiteProof, prove
from fastprune.compaction.surgery import compact
from fastprune.compaction.uniform import uniform_config, uniform_kinds

__all__ = [
    "ProofReport",
    "SiteProof",
    "compact",
    "load_pretrained",
    "prove",
    "save_pretrained",
    "uniform_config",
    "uniform_kinds",
]
