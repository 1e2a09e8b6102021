"""Answers from start and end logits, and the SQuAD scores (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastprune.data.squad import Example, Window

# Candidates per window and longest answer in tokens, from the BERT recipe.
_BEST = 20
_LONGEST = 30

Array = np.ndarray[Any, Any]
Answers = dict[Example, str]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def best_answers(logits: Sequence[Array], windows: Sequence[Window]) -> Answers:
    """One answer per example, over all its windows.

    A span scores the sum of its start and end logits. An example of a data set with
    unanswerable questions gets the empty answer if "no answer" scores higher, where "no
    answer" is what its least certain window gives it.

    Args:
        logits: per window, start and end logits ``[2, tokens]`` over its own tokens.
        windows: where the tokens lie.
    """
    best: dict[Example, tuple[float, str]] = {}
    none: dict[Example, float] = {}
    for (start, end), window in zip(logits, windows, strict=True):
        example = window.example
        best.setdefault(example, (-np.inf, ""))
        best[example] = max(best[example], _best_span(start, end, window), key=lambda b: b[0])
        score = float(start[window.null] + end[window.null])
        none[example] = min(none.get(example, np.inf), score)
    return {
        example: "" if example.may_abstain and none[example] > score else text
        for example, (score, text) in best.items()
    }


def exact_match(answers: Answers) -> float:
    """Share of answers equal to an accepted one, after normalisation."""
    return _mean_best(answers, lambda answer, gold: float(answer == gold))


def f1(answers: Answers) -> float:
    """Mean F1 of the words shared with the closest accepted answer."""
    return _mean_best(answers, _word_f1)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _best_span(start: Array, end: Array, window: Window) -> tuple[float, str]:
    starts, ends = (np.argsort(-scores, kind="stable")[:_BEST] for scores in (start, end))
    in_context = np.array([span is not None for span in window.offsets])
    length = ends[None, :] - starts[:, None] + 1
    allowed = (
        in_context[starts][:, None]
        & in_context[ends][None, :]
        & (length >= 1)
        & (length <= _LONGEST)
    )
    if not allowed.any():
        return -np.inf, ""
    scores = np.where(allowed, start[starts][:, None] + end[ends][None, :], -np.inf)
    i, j = np.unravel_index(scores.argmax(), scores.shape)
    first, last = window.offsets[starts[i]], window.offsets[ends[j]]
    assert first is not None
    assert last is not None
    return float(scores[i, j]), window.example.context[first[0] : last[1]].strip()


def _mean_best(answers: Answers, score: Callable[[str, str], float]) -> float:
    """Mean over examples of the best score against an accepted answer; "" if there is none."""
    total = 0.0
    for example, answer in answers.items():
        accepted = [normalise(gold) for gold in example.answers] or [""]
        total += max(score(normalise(answer), gold) for gold in accepted)
    return total / len(answers)


def _word_f1(answer: str, gold: str) -> float:
    words, gold_words = answer.split(), gold.split()
    if not words or not gold_words:
        return float(words == gold_words)
    shared = sum((Counter(words) & Counter(gold_words)).values())
    return 2 * shared / (len(words) + len(gold_words))
