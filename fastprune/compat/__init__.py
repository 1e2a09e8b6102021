"""Faces that other projects know: drop-in replacements for their slower parts."""
