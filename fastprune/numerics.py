"""Constants that several rooms must agree on."""

from __future__ import annotations

RIDGE = 1e-2
"""Ridge of least-squares problems, relative to the mean diagonal of the normal matrix.

Small enough to leave well-determined directions alone, large enough for those that a few thousand
tokens do not determine.
"""
