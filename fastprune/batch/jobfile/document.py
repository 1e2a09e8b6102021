"""YAML whose every value knows its line, so that a mistake is named where it stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fastprune.errors import BatchError

Section = dict[str, Node]
"""The keys of a mapping, and their values where they stand."""


class Document:
    """One YAML file."""

    def __init__(self, path: Path) -> None:
        """Read and parse it.

        Raises:
            BatchError: the file cannot be read, is not YAML, or is empty.
        """
        self.path = path
        self._constructor = SafeConstructor()
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise BatchError(f"cannot read {path} ({error.strerror}); check the path") from error
        except UnicodeDecodeError as error:
            raise BatchError(f"{path} is not UTF-8 text; save it as UTF-8") from error
        except yaml.YAMLError as error:
            raise BatchError(self._syntax(error)) from error
        except RecursionError:
            raise BatchError(f"{path} is nested too deeply; write it flat") from None
        if node is None:
            raise BatchError(f"{path} is empty; it needs models or jobs")
        self.root: Node = node

    def place(self, node: Node) -> str:
        """Where a value stands: the file and the line."""
        return f"{self.path}, line {node.start_mark.line + 1}"

    def error(self, node: Node, reason: object) -> BatchError:
        """An error that names where a value stands."""
        return BatchError(f"{self.place(node)}: {reason}")

    def section(self, node: Node, what: str, known: Iterable[str] | None = None) -> Section:
        """The keys of a mapping.

        Args:
            node: the mapping.
            what: what it is called in messages.
            known: keys that it may have; None for any.

        Raises:
            BatchError: it is no mapping, or a key is unknown or stands there twice.
        """
        if not isinstance(node, MappingNode):
            raise self.error(node, f"{what} must be keys with values (key: value)")
        self._refuse_repetitions(node, what)
        self._constructor.flatten_mapping(node)  # what << brings in; a key of its own comes last
        section: Section = {}
        for key_node, value in node.value:
            key = self.value(key_node)
            if known is not None and key not in (names := list(known)):
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
                raise self.error(key_node, f"{what} has no key {key!r}; {hint}")
            section[key] = value
        return section

    def entries(self, node: Node, what: str) -> list[Node]:
        """The entries of a list.

        Raises:
            BatchError: it is no list, or an empty one.
        """
        if not isinstance(node, SequenceNode):
            raise self.error(node, f"{what} must be a list ([a, b], or one line '- …' for each)")
        if not node.value:
            raise self.error(node, f"{what} is empty; give at least one, or leave the key out")
        return list(node.value)

    def text(self, node: Node, what: str) -> str:
        """A text.

        Raises:
            BatchError: it is something else, or empty.
        """
        value = self.value(node)
        if not isinstance(value, str) or not value.strip():
            found = "nothing" if value in (None, "") else repr(value)
            raise self.error(node, f"{what} must be text, got {found}; put it in quotes")
        return value

    def value(self, node: Node) -> Any:
        """The plain value of a node.

        Raises:
            BatchError: YAML cannot make one, for example of a date that is none.
        """
        try:
            return self._constructor.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            reason = str(getattr(error, "problem", None) or error).splitlines()[0]
            raise self.error(node, f"cannot be read ({reason})") from error

    def _refuse_repetitions(self, node: MappingNode, what: str) -> None:
        """YAML keeps the last of two equal keys and says nothing."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise self.error(key, f"{what} has a key that is not plain text")
            line = key.start_mark.line + 1
            # 1 and 01 are one key; << is none that has a value.
            name = key.value if key.value == "<<" else str(self.value(key))
            if name in first:
                raise self.error(key, f"{name!r} is given already on line {first[name]}; keep one")
            first[name] = line

    def _syntax(self, error: yaml.YAMLError) -> str:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        return f"{self.path}{line}: this is not YAML ({reason}); check indentation and colons"
