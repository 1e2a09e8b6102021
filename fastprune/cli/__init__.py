"""The command line: ``fastprune prune | sweep | batch | eval | inspect | doctor | demo``."""

from fastprune.cli.main import main

__all__ = ["main"]
