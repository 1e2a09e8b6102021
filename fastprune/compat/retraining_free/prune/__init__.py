"""Mask gradients, search, rearrangement and rescaling."""
