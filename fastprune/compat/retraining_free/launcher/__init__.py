"""Runs the original's scripts, unmodified, on fastprune and on today's libraries."""

from fastprune.compat.retraining_free.launcher.run import run_script

__all__ = ["run_script"]
