from __future__ import annotations

import numpy as np
import pytest

from fastprune.data.squad import Example, Window
from fastprune.evaluation.answers import best_answers, exact_match, f1, normalise

CONTEXT = "the cat sat on the mat"
SPANS = [(0, 3), (4, 7), (8, 11), (12, 14), (15, 18), (19, 22)]


def example(*answers, may_abstain=False, name="q"):
    return Example(name, "where", CONTEXT, answers, (0,) * len(answers), may_abstain)


def window(of, tokens=slice(None)):
    """[CLS] where [SEP] context [SEP], over some words of the context."""
    return Window(of, [None, None, None, *SPANS[tokens], None], null=0)


def logits(length, **peaks):
    """Zeros but for start and end peaks such as ``s4=2.0, e6=3.0``."""
    scores = np.zeros((2, length), dtype=np.float32)
    for name, value in peaks.items():
        scores["se".index(name[0]), int(name[1:])] = value
    return scores


def test_best_span_is_cut_from_the_context():
    one = example("cat sat")
    assert best_answers([logits(10, s4=2, e5=3)], [window(one)]) == {one: "cat sat"}


def test_spans_must_lie_in_the_context_and_run_forward():
    one = example("x")
    # The best end lies before the best start, and the question scores highest of all.
    scores = logits(10, s1=9, e1=9, s6=5, e4=5, e7=2, s3=1)
    assert best_answers([scores], [window(one)]) == {one: "on the"}


def test_spans_have_a_longest_length():
    words = ["w"] * 40
    long = Example("q", "where", " ".join(words), (), (), False)
    spans = [(2 * i, 2 * i + 1) for i in range(40)]
    scores = logits(41, s1=5, e40=5, e30=4, e31=4.5)
    answer = best_answers([scores], [Window(long, [None, *spans], null=0)])[long]
    assert len(answer.split()) == 30


def test_the_best_of_all_windows_wins():
    one = example("mat")
    windows = [window(one, slice(0, 3)), window(one, slice(3, 6))]
    scores = [logits(7, s4=1, e4=1), logits(7, s5=2, e5=2)]
    assert best_answers(scores, windows) == {one: "mat"}


def test_abstaining_needs_every_window_and_a_data_set_with_such_questions():
    scores = [logits(7, s0=3, e0=3, s3=1, e3=1), logits(7, s0=1, e0=1, s5=2, e5=2)]
    parts = (slice(0, 3), slice(3, 6))
    v2 = example(may_abstain=True)
    assert best_answers(scores, [window(v2, part) for part in parts]) == {v2: "mat"}
    assert best_answers(scores[:1], [window(v2, parts[0])]) == {v2: ""}
    v1 = example("the")
    assert best_answers(scores[:1], [window(v1, parts[0])]) == {v1: "the"}


def test_a_window_without_context_answers_nothing():
    one = example("cat")
    empty = Window(one, [None, None], null=0)
    assert best_answers([logits(2, s0=1, e1=1)], [empty]) == {one: ""}


def test_normalisation():
    assert normalise(" The  Cat's, an a theatre.") == "cats theatre"


def test_scores_by_hand():
    answers = {
        example("the mat", name="exact"): "Mat.",
        # Shared 1 word of 2 and 3: F1 = 2/5, and 2/4 with the second accepted answer.
        example("dog on mat", "cat mat", name="part"): "sat mat",
        example("cat", name="wrong"): "dog",
        example(may_abstain=True, name="abstained"): "",
        example(may_abstain=True, name="invented"): "cat",
    }
    assert exact_match(answers) == pytest.approx(2 / 5)
    assert f1(answers) == pytest.approx((1 + 0.5 + 0 + 1 + 0) / 5)


def test_repeated_words_count_as_often_as_they_are_accepted():
    assert f1({example("cat dog"): "cat cat"}) == pytest.approx(0.5)
