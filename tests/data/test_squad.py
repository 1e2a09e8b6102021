from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from fastprune.data import load_samples
from fastprune.errors import DataError

CONTEXT = "the cat sat on the mat . the dog ran in the house . paris is a film ."
ROWS = [
    {
        "id": "q0",
        "question": "where sat the cat",
        "context": CONTEXT,
        "answers": {"text": ["on the mat"], "answer_start": [CONTEXT.index("on the mat")]},
    },
    {
        "id": "q1",
        "question": "who ran",
        "context": CONTEXT,
        "answers": {"text": ["dog", "the dog"], "answer_start": [CONTEXT.index("dog"), 25]},
    },
    {
        "id": "q2",
        "question": "  who is good",
        "context": CONTEXT,
        "answers": {"text": [], "answer_start": []},
    },
]


def load(source, tokenizer, config, **options):
    return load_samples(
        source, tokenizer, model_config=config, task="question-answering", **options
    )


def answer_text(samples, position):
    first, last = samples.labels[position].tolist()
    window = samples.windows[position]
    if first == window.null:
        assert last == first
        return None
    return window.example.context[window.offsets[first][0] : window.offsets[last][1]]


def test_windows_point_at_the_answer(tokenizer, config):
    samples = load(ROWS, tokenizer, config)
    assert samples.ids == [0, 1, 2]
    assert [answer_text(samples, i) for i in range(3)] == ["on the mat", "dog", None]
    assert samples.windows[2].example.question == "who is good"
    batch = next(samples.batches(3, bucketed=False))
    assert torch.stack([batch["start_positions"], batch["end_positions"]], 1).equal(samples.labels)
    assert "labels" not in batch


@pytest.mark.parametrize("length", [12, 13, 14, 15, 16])
def test_long_contexts_are_cut_into_overlapping_windows(tokenizer, config, length):
    samples = load(ROWS, tokenizer, config, max_length=length)
    assert len(samples) > len(ROWS)
    assert max(samples.lengths) <= length
    for row in range(3):
        of_row = [i for i in range(len(samples)) if samples.ids[i] == row]
        covered = [
            {span for span in samples.windows[i].offsets if span is not None} for i in of_row
        ]
        words = {CONTEXT[a:b] for span in covered for a, b in span}
        assert words == set(CONTEXT.split())
        stride = length // 4
        assert all(len(a & b) == stride for a, b in pairwise(covered))
        # An answer that a window cuts is none; some of these lengths cut "on the mat".
        found = {answer_text(samples, i) for i in of_row} - {None}
        assert found == set(ROWS[row]["answers"]["text"][:1])


def test_limit_keeps_so_many_windows(tokenizer, config):
    samples = load(ROWS, tokenizer, config, max_length=16, limit=4, seed=1)
    assert len(samples) == len(samples.windows) == len(samples.labels) == 4
    everything = load(ROWS, tokenizer, config, max_length=16)
    with pytest.raises(DataError, match=rf"99 samples .* hold {len(everything)}"):
        load(ROWS, tokenizer, config, max_length=16, limit=99)


def test_published_nesting_and_json_lines_give_the_same(tmp_path, tokenizer, config):
    lines = tmp_path / "squad.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    nested = tmp_path / "squad.json"
    questions = [
        {
            "id": row["id"],
            "question": row["question"],
            "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(
                    row["answers"]["text"], row["answers"]["answer_start"], strict=True
                )
            ],
        }
        for row in ROWS
    ]
    article = {"title": "t", "paragraphs": [{"context": CONTEXT, "qas": questions}]}
    nested.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    expected = load(ROWS, tokenizer, config)
    for path in (lines, nested):
        samples = load(path, tokenizer, config)
        assert samples.features == expected.features
        assert samples.windows == expected.windows
        assert torch.equal(samples.labels, expected.labels)


def test_data_without_unanswerable_questions_never_abstain(tokenizer, config):
    assert not load(ROWS[:2], tokenizer, config).windows[0].example.may_abstain
    assert load(ROWS, tokenizer, config).windows[0].example.may_abstain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"text": ["x"], "answer_start": [len(CONTEXT)]}}, "row 0 has an answer at"),
        ({"answers": {"text": ["x"], "answer_start": []}}, "row 0 has malformed answers"),
        ({"answers": "on the mat"}, "row 0 has malformed answers"),
        ({"context": None}, "row 0 lacks a question or context"),
        ({"question": "cat " * 60}, "question 0 has 60 tokens and leaves no room"),
    ],
)
def test_bad_rows(tokenizer, config, change, message):
    with pytest.raises(DataError, match=message):
        load([{**ROWS[0], **change}], tokenizer, config)


def test_unlabelled_questions(tokenizer, config):
    rows = [{"question": "who ran", "context": CONTEXT}]
    with pytest.raises(DataError, match="unlabelled"):
        load(rows, tokenizer, config)
    assert load(rows, tokenizer, config, require_labels=False).labels is None
    with pytest.raises(DataError, match="no column 'context'"):
        load([{"question": "who ran"}], tokenizer, config)


def test_tokenised_answers_move_with_the_padding(config):
    batch = {
        "input_ids": torch.tensor([[0, 0, 2, 7, 3]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1]]),
        "start_positions": torch.tensor([3]),
        "end_positions": torch.tensor([3]),
    }
    samples = load([batch], None, config)
    assert samples.labels.tolist() == [[1, 1]]
    assert samples.features[0]["input_ids"] == [2, 7, 3]
