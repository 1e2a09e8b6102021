"""The command line: ``fastprune prune | sweep | batch | eval | inspect | lut | doctor | demo``."""

from fastprune.cli.main import main

__all__ = ["main"]
