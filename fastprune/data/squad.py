"""Extractive question answering: contexts cut into overlapping windows (SQuAD 1.1 and 2.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastprune.data.table import Table
from fastprune.errors import DataError
from fastprune.progress import progress_bar

# Tokens that neighbouring windows share, from the BERT recipe (Devlin et al. 2019).
_STRIDE = 128
_CHUNK = 256

Offsets = list[tuple[int, int] | None]


@dataclass(frozen=True)
class Example:
    """One question with its context and accepted answers.

    Without answers the question is unanswerable; ``may_abstain`` says that the data set has
    such questions at all, so that "no answer" is a prediction.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...]
    may_abstain: bool


@dataclass(frozen=True)
class Window:
    """One sample's place in its example.

    ``offsets[t]`` is the character span of token ``t`` in the context, ``None`` for tokens of
    the question and special tokens; ``null`` is the token that stands for "no answer".
    """

    example: Example
    offsets: Offsets
    null: int


@dataclass(frozen=True)
class Windows:
    """Parallel lists over windows; ``rows`` are positions among the given examples."""

    features: list[dict[str, list[int]]]
    windows: list[Window]
    rows: list[int]
    positions: torch.Tensor
    """int64 ``[windows, 2]``: first and last answer token, ``null`` where there is none."""


def read_examples(table: Table, question: str, context: str, answers: str | None) -> list[Example]:
    """The table's questions.

    Args:
        answers: column of accepted answers, each row ``{"text": [...], "answer_start": [...]}``
            or a list of ``{"text", "answer_start"}``; ``None`` for none.

    Raises:
        DataError: a question or context is not text, or an answer lies outside its context.
    """
    given = [None] * len(table) if answers is None else table.column(answers)
    ids = table.column("id") if "id" in table.names else range(len(table))
    spans = [_answers(row, value) for row, value in enumerate(given)]
    may_abstain = answers is not None and any(not texts for texts, _ in spans)
    examples = []
    for row, fields in enumerate(
        zip(ids, table.column(question), table.column(context), spans, strict=True)
    ):
        key, asked, text, (texts, starts) = fields
        if not isinstance(asked, str) or not isinstance(text, str):
            raise DataError(f"row {row} lacks a question or context text; correct or remove it")
        for answer, start in zip(texts, starts, strict=True):
            if not 0 <= start <= len(text) - len(answer):
                raise DataError(
                    f"row {row} has an answer at character {start}, outside its context of "
                    f"{len(text)}; correct answer_start"
                )
        # Leading blanks can push a question over the window; SQuAD has such questions.
        examples.append(Example(str(key), asked.strip(), text, texts, starts, may_abstain))
    return examples


def cut_windows(
    examples: Sequence[Example], tokenizer: Any, max_length: int, *, progress: bool
) -> Windows:
    """Tokenise examples into windows of at most ``max_length`` tokens.

    Raises:
        DataError: the tokenizer cannot give offsets, or a question leaves no room for context.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError("question answering needs character offsets; use a fast tokenizer")
    stride = min(_STRIDE, max_length // 4)
    result = Windows([], [], [], torch.empty(0, 2, dtype=torch.int64))
    positions: list[tuple[int, int]] = []
    for start in progress_bar("tokenize", range(0, len(examples), _CHUNK), enabled=progress):
        chunk = examples[start : start + _CHUNK]
        questions = [example.question for example in chunk]
        _check_room(questions, start, tokenizer, max_length - stride)
        encoded = tokenizer(
            questions,
            [example.context for example in chunk],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=True,
        )
        sources = encoded.pop("overflow_to_sample_mapping")
        spans = encoded.pop("offset_mapping")
        for w, source in enumerate(sources):
            tokens = {name: encoded[name][w] for name in encoded}
            offsets: Offsets = [
                tuple(span) if sequence == 1 else None
                for span, sequence in zip(spans[w], encoded.sequence_ids(w), strict=True)
            ]
            null = _null_position(tokens["input_ids"], tokenizer.cls_token_id)
            result.features.append(tokens)
            result.windows.append(Window(chunk[source], offsets, null))
            result.rows.append(start + source)
            positions.append(_answer_tokens(chunk[source], offsets, null))
    return Windows(result.features, result.windows, result.rows, torch.tensor(positions))


def _answers(row: int, value: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if value is None:
        return (), ()
    try:
        if isinstance(value, Mapping):
            texts, starts = tuple(value["text"]), tuple(value["answer_start"])
        else:
            texts = tuple(answer["text"] for answer in value)
            starts = tuple(answer["answer_start"] for answer in value)
    except (KeyError, TypeError):
        texts, starts = (), (0,)
    if len(texts) != len(starts):
        raise DataError(
            f"row {row} has malformed answers; give "
            '{"text": [...], "answer_start": [...]} of equal length'
        )
    return texts, starts


def _check_room(questions: list[str], start: int, tokenizer: Any, room: int) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    tokens = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for row, question in enumerate(tokens, start):
        if len(question) + special >= room:
            raise DataError(
                f"question {row} has {len(question)} tokens and leaves no room for its context; "
                "raise max_length or shorten it"
            )


def _null_position(tokens: list[int], cls: int | None) -> int:
    return tokens.index(cls) if cls in tokens else 0


def _answer_tokens(example: Example, offsets: Offsets, null: int) -> tuple[int, int]:
    """First and last token of the first accepted answer, if this window holds all of it."""
    if not example.answers:
        return null, null
    begin = example.answer_starts[0]
    end = begin + len(example.answers[0].rstrip())
    inside = [
        token
        for token, span in enumerate(offsets)
        if span is not None and span[0] < end and span[1] > begin
    ]
    if not inside:
        return null, null
    first, last = offsets[inside[0]], offsets[inside[-1]]
    complete = first is not None and last is not None and first[0] <= begin and last[1] >= end
    return (inside[0], inside[-1]) if complete else (null, null)
