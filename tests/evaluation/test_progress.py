from __future__ import annotations

import io
import sys

import pytest

from fastprune.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "enabled", "shown"),
    [(Terminal(), True, True), (Terminal(), False, False), (io.StringIO(), True, False)],
)
def test_bars_appear_on_terminals_only_and_on_request(monkeypatch, stderr, enabled, shown):
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(progress_bar("work", range(3), enabled=enabled)) == [0, 1, 2]
    with progress_bar("steps", total=2, enabled=enabled) as bar:
        bar.update(2)
    assert ("work" in stderr.getvalue()) == shown
    assert ("steps" in stderr.getvalue()) == shown
