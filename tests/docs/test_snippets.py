"""The snippets of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["operations", "inside-heads"])
def test_snippets_run(page):
    text = (DOCS / f"{page}.md").read_text()
    names: dict[str, object] = {}
    for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        # Blank lines before it, so that a failure names its line in the page.
        lines = "\n" * text[: match.start(1)].count("\n")
        exec(compile(lines + match[1], f"docs/{page}.md", "exec"), names)


def test_every_operation_is_described():
    from fastprune import ops

    text = (DOCS / "operations.md").read_text()
    functions = [name for name in ops.__all__ if name.islower() and name != "native_status"]
    assert [name for name in functions if f"ops.{name}(" not in text] == []
