"""Sentences from documentation strings: what counts as one, and how they are dealt out."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import pytest

from fastprune.demo.corpus import find_sources, sentences, text_corpus
from fastprune.errors import DataError

WORDS = ["stream", "buffer", "reader", "value", "message", "window", "parser", "number"]


def phrase(rng: random.Random) -> str:
    return f"The {' '.join(rng.choices(WORDS, k=8))} waits."


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Twelve packages of two modules, each module documenting twenty sentences of its own."""
    rng = random.Random(0)
    for package in "abcdefghijkl":
        folder = tmp_path / package
        folder.mkdir()
        for module in ("one", "two"):
            body = " ".join(phrase(rng) for _ in range(20))
            (folder / f"{module}.py").write_text(f'"""{body}"""\n')
    return tmp_path


def origin(library: Path) -> dict[str, str]:
    """Sentence -> the package that documents it."""
    return {
        sentence: name
        for name, files in find_sources([library]).items()
        for path in files
        for sentence in sentences(path.read_text().strip().strip('"'))
    }


def test_prose_is_kept_and_whitespace_normalised() -> None:
    text = "Return the next item\nfrom the  queue. It waits when the queue is empty."
    assert list(sentences(text)) == [
        "Return the next item from the queue.",
        "It waits when the queue is empty.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Too short to keep.",
        "word " * 61 + "end.",
        "there is no capital letter at the start.",
        "There is no stop at the end of this",
        "Call os.path.join to get the name of it.",
        "Call the_function to get the name of it.",
        "Call run() to get the name of it now.",
        "The readLine method returns the next line of it.",
        "The ``value`` argument holds the name of it.",
        "See https://example.org for all there is to know.",
        "The sum is x = y and nothing else at all.",
        "Ein Satz mit Ümlauten ist hier nicht zu gebrauchen.",
        "The numbers are 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18.",
        ">>> print('This is an example and it is not a sentence.')",
        "- This is one item in a list of many such items.",
        ":param value: This is a field and it is not a sentence.",
        "Parameters\n----------\nvalue\n    The thing that will be added to the list.",
        "Args:\n    value: The thing that will be added to the list.",
        "This works with several kinds of thing, e.g.",
    ],
)
def test_everything_else_is_dropped(text: str) -> None:
    assert list(sentences(text)) == []


def test_counts_determinism_and_seed(library: Path) -> None:
    first = text_corpus(150, 60, seed=3, roots=[library])
    assert [len(part) for part in first] == [150, 60]
    assert text_corpus(150, 60, seed=3, roots=[library]) == first
    assert text_corpus(150, 60, seed=4, roots=[library]) != first


def test_the_parts_share_no_source(library: Path) -> None:
    packages = origin(library)
    for seed in range(5):
        calibration, heldout = text_corpus(150, 60, seed=seed, roots=[library])
        sources = [{packages[sentence] for sentence in part} for part in (calibration, heldout)]
        assert sources[0].isdisjoint(sources[1])


def test_sources_take_turns(library: Path) -> None:
    packages = origin(library)
    calibration, _ = text_corpus(24, 24, roots=[library])
    counts = [sum(packages[s] == name for s in calibration) for name in "abcdefghijkl"]
    assert sorted(counts) == [0] * 6 + [4] * 6


def test_repeats_count_once_across_both_parts(tmp_path: Path) -> None:
    for name in ("first", "second", "third", "fourth"):
        (tmp_path / f"{name}.py").write_text(
            f'"""This is said by every one of them. Only the {name} module says this sentence."""'
        )
    calibration, heldout = text_corpus(3, 2, roots=[tmp_path])
    assert len(set(calibration + heldout)) == 5


def test_private_modules_belong_to_their_public_namesake(tmp_path: Path) -> None:
    (tmp_path / "_decimal.py").touch()
    (tmp_path / "decimal").mkdir()
    (tmp_path / "decimal" / "part.py").touch()
    assert {name: len(files) for name, files in find_sources([tmp_path]).items()} == {"decimal": 2}


def test_tests_and_vendored_copies_are_no_source(tmp_path: Path) -> None:
    for folder in ("test", "package/tests", "package/_vendor/other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "module.py").touch()
    assert not any(find_sources([tmp_path]).values())


def test_files_are_parsed_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def :")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    (tmp_path / "hostile.py").write_text(
        '"""This module must not be run by anyone."""\nraise SystemExit("it was run")\n'
        'class Box:\n    def open(self):\n        "Open the box and look inside it."\n'
    )
    (tmp_path / "quiet.py").write_text("x = 1\n")
    calibration, heldout = text_corpus(2, 0, roots=[tmp_path])
    assert calibration == [
        "This module must not be run by anyone.",
        "Open the box and look inside it.",
    ]
    assert heldout == []


@pytest.mark.parametrize(("calibration", "heldout"), [(10_000, 10), (10, 10_000), (-1, 5)])
def test_more_than_there_is_is_an_error(library: Path, calibration: int, heldout: int) -> None:
    with pytest.raises(DataError, match="ask for"):
        text_corpus(calibration, heldout, roots=[library])


def test_the_standard_library_alone_is_enough_for_the_demo() -> None:
    calibration, heldout = text_corpus(roots=[Path(sysconfig.get_path("stdlib"))])
    assert (len(calibration), len(heldout)) == (2048, 1024)
