"""Real English text that every Python installation has: its documentation strings."""

from __future__ import annotations

import ast
import os
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from fastprune.errors import DataError

Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Tests document little, and vendored copies repeat the text of other packages.
SKIPPED_DIRECTORIES = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "testing",
    "vendor",
    "_vendor",
    "_vendored",
    "externals",
}
SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# Anything but plain prose: markup, identifiers, paths, mathematics, quoted code.
NOT_PROSE = re.compile(r"[^A-Za-z0-9 ,.;:!?()'\"-]|\w[.:]\w|\w\(|[a-z][A-Z]|--|\.\.|:\s")
# A paragraph with one of these is code, a table, a heading or a field list.
NOT_PARAGRAPH = re.compile(r">>>|^\s|^[-*+|:@#.=~^]|^\d+[.)]\s|-{3}|={3}|~{3}", re.MULTILINE)
OPEN_ENDED = re.compile(r"\b(e\.g|i\.e|cf|vs|etc)\.$")


def text_corpus(
    calibration: int = 2048,
    heldout: int = 1024,
    seed: int = 0,
    roots: Sequence[Path] | None = None,
) -> tuple[list[str], list[str]]:
    """Sentences to calibrate on and other sentences to evaluate on.

    The sentences come from the documentation strings of the installed packages, which are parsed
    and never imported. The two lists share no sentence and no source: a top-level package or module
    serves one of them only. Each list takes turns between its sources, so that none dominates. The
    result depends on ``seed`` and on what is installed, and on nothing else.

    Args:
        calibration: number of sentences in the first list.
        heldout: number of sentences in the second list.
        seed: which sources serve which list, and in what order.
        roots: directories to look in; the standard library and site-packages by default.

    Raises:
        DataError: the sources hold fewer sentences than asked for.
    """
    if calibration < 0 or heldout < 0:
        raise DataError("the demo cannot draw a negative number of sentences: ask for 0 or more")
    sources = find_sources(installed_roots() if roots is None else roots)
    names = sorted(sources)
    random.Random(seed).shuffle(names)
    cut = round(len(names) * calibration / max(calibration + heldout, 1))

    seen: set[str] = set()
    parts = []
    for wanted, chosen in ((calibration, names[:cut]), (heldout, names[cut:])):
        part = take_turns([sentences_of(sources[name]) for name in chosen], wanted, seen)
        if len(part) < wanted:
            raise DataError(
                f"the installed packages document only {len(part)} of the {wanted} sentences "
                "asked for: ask for fewer"
            )
        parts.append(part)
    return parts[0], parts[1]


def installed_roots() -> list[Path]:
    """The directories of the standard library and of the installed packages."""
    paths = sysconfig.get_paths()
    return [
        Path(path) for path in dict.fromkeys(paths[k] for k in ("stdlib", "purelib", "platlib"))
    ]


def find_sources(roots: Sequence[Path]) -> dict[str, list[Path]]:
    """Python files by the top-level package or module they belong to.

    A private module counts as its public namesake's: ``_pydecimal`` documents ``pydecimal``.
    """
    sources: dict[str, list[Path]] = {}
    for root in roots:
        for entry in sorted(root.iterdir()) if root.is_dir() else []:
            if entry.is_dir() and entry.name.isidentifier():
                files = python_files(entry)
            elif entry.suffix == ".py":
                files = [entry]
            else:
                continue
            if entry.name not in SKIPPED_DIRECTORIES:
                sources.setdefault(entry.stem.strip("_").lower(), []).extend(files)
    # Small files first: a list takes few sentences from each source, so large ones stay unparsed.
    return {
        name: sorted(files, key=lambda path: (path.stat().st_size, path))
        for name, files in sources.items()
    }


def python_files(package: Path) -> list[Path]:
    """The package's Python files, less those of skipped directories."""
    files = []
    for folder, subfolders, names in os.walk(package):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_DIRECTORIES]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return files


def take_turns(sources: list[Iterator[str]], count: int, seen: set[str]) -> list[str]:
    """``count`` sentences, one from each source in turn; fewer when all sources run dry.

    ``seen`` holds the sentences used so far, spelling and punctuation aside; repeats are passed
    over.
    """
    taken: list[str] = []
    while sources and len(taken) < count:
        for source in list(sources):
            for sentence in source:
                key = re.sub(r"[^a-z]", "", sentence.lower())
                if key not in seen:
                    seen.add(key)
                    taken.append(sentence)
                    break
            else:
                sources.remove(source)
            if len(taken) == count:
                break
    return taken


def sentences_of(files: Sequence[Path]) -> Iterator[str]:
    """The sentences documented in ``files``, one file at a time as they are asked for."""
    for path in files:
        try:
            with warnings.catch_warnings():  # other people's invalid escapes are not our concern
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for text in docstrings(tree):
            yield from sentences(text)


def docstrings(node: ast.Module | Definition) -> Iterator[str]:
    """The documentation strings of a module or definition and of what it defines, in order."""
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, Definition):
            yield from docstrings(child)


def sentences(text: str) -> Iterator[str]:
    """The plain English sentences of one documentation string, whitespace normalised."""
    for paragraph in re.split(r"\n\s*\n", text):
        if NOT_PARAGRAPH.search(paragraph):
            continue
        for sentence in SENTENCE_BREAK.split(" ".join(paragraph.split())):
            if is_prose(sentence):
                yield sentence


def is_prose(sentence: str) -> bool:
    """Whether this is a complete sentence of 5 to 60 words with nothing but words in it."""
    words = sentence.split()
    letters = sum(map(str.isalpha, sentence))
    return (
        5 <= len(words) <= 60
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and letters >= 0.75 * len(sentence)
        and not OPEN_ENDED.search(sentence)
        and not NOT_PROSE.search(sentence)
    )
