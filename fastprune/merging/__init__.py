"""Tokens merged at run time: what a reduced vision model does, and its checkpoints rebuild."""
