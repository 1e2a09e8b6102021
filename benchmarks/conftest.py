from __future__ import annotations

from assets import assets, sst2

__all__ = ["assets", "sst2"]
