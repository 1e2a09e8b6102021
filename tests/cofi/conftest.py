"""Samples to train on."""

from __future__ import annotations

import pytest
from tiny_samples import text_samples

from fastprune.data import Samples


@pytest.fixture
def samples() -> Samples:
    return text_samples("classification", 16)
