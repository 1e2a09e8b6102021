"""One entry from any data a user may have to :class:`Samples`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fastprune.data.columns import (
    find_answer_column,
    find_label_column,
    find_text_columns,
    find_text_pair,
)
from fastprune.data.images import image_tokens, pixel_values
from fastprune.data.labels import class_labels, targets
from fastprune.data.samples import Samples, draw_positions
from fastprune.data.sources import Split, read_source
from fastprune.data.squad import cut_windows, read_examples
from fastprune.data.table import Table
from fastprune.data.tasks import IMAGE_TASKS, Task, task_of_config
from fastprune.data.tokenized import answer_positions, token_features
from fastprune.data.tokens import fit_to_model, longest_sample, padding_of, tokenize
from fastprune.errors import DataError


def load_samples(
    source: Any,
    tokenizer: Any = None,
    *,
    model_config: Any = None,
    task: Task | None = None,
    split: Split = "train",
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    at_most: bool = False,
    seed: int = 0,
    require_labels: bool = True,
    progress: bool = True,
) -> Samples:
    """Samples from a file, a hub task, texts, rows, a ``datasets.Dataset`` or a DataLoader.

    Args:
        source: path of a tsv, csv, json, jsonl or parquet file; name of a hub task (``sst2``,
            ``mnli``, ``squad``, …); ``datasets.Dataset``; list of texts; list of dict rows;
            DataLoader or other iterable of dict batches; or ``Samples``, returned as they are.
        tokenizer: the model's tokenizer, for images its image processor. Data that already
            carry ``input_ids`` or ``pixel_values`` need none.
        model_config: the model's configuration, against which labels, tokens and lengths are
            checked. Without it those checks are skipped.
        task: what the model does; by default told from ``model_config``.
        split: which split of a hub task.
        text_columns: one text column or a pair; by default the customary names.
        label_column: by default ``label``, ``labels``, ``score`` or ``target``.
        max_length: longest sample in tokens; longer ones are truncated, or for question
            answering cut into overlapping windows. Default: 128, question answering 384,
            language modelling 512, and never beyond tokenizer and model.
        limit: keep this many samples, drawn by ``seed`` exactly as ``Samples.draw`` does, but
            before tokenising. Question answering draws questions first, then windows.
        at_most: fewer samples than ``limit`` are all kept; otherwise they are an error.
        seed: chooses what ``limit`` keeps.
        require_labels: whether unlabelled data are refused; if not, labels are read where
            there are any.
        progress: whether to show a bar on a terminal.

    Raises:
        DataError: the data cannot be used; the message names the cause and the cure.
    """
    if isinstance(source, Samples):
        if task is not None and source.task != task:
            raise DataError(
                f"these are samples for {source.task}, but the model does {task}; load them again "
                "for this model"
            )
        if limit is not None and at_most:
            limit = min(limit, len(source))
        return source if limit is None else source.draw(limit, seed)
    task = task or task_of_config(model_config)
    table, known = read_source(source, split)
    request = _Request(
        tokenizer,
        model_config,
        task,
        text_columns or (known.text_columns if known else None),
        label_column or (known.label_column if known else None),
        max_length,
        limit,
        at_most,
        seed,
        require_labels,
        progress,
    )
    if task in IMAGE_TASKS:
        samples = _images(table, request)
    elif "input_ids" in table.names:
        samples = _tokenized(table, request)
    elif task == "question-answering":
        samples = _windows(table, request)
    else:
        samples = _texts(table, request)
    return samples if known is None else replace(samples, metric=known.metric)


@dataclass(frozen=True)
class _Request:
    """The options of :func:`load_samples`, on their way to the task's own loader."""

    tokenizer: Any
    config: Any
    task: Task
    text_columns: Sequence[str] | str | None
    label_column: str | None
    max_length: int | None
    limit: int | None
    at_most: bool
    seed: int
    require_labels: bool
    progress: bool

    def kept(self, rows: Sequence[int]) -> list[int]:
        """The rows that ``limit`` and ``seed`` leave."""
        if self.limit is None:
            return list(rows)
        limit = min(self.limit, len(rows)) if self.at_most else self.limit
        return [rows[p] for p in draw_positions(len(rows), limit, self.seed)]

    def longest(self) -> int:
        """The truncation length; raises ``DataError`` where there is no tokenizer for text."""
        if self.tokenizer is None:
            raise DataError("the data are text; pass the model's tokenizer")
        return longest_sample(self.tokenizer, self.config, self.task, self.max_length)

    def labels(self, table: Table, ids: Sequence[int]) -> torch.Tensor | None:
        """Labels of the rows ``ids``; all rows are checked, so that the seed hides no error."""
        if self.task in ("causal-lm", "embedding"):
            return None
        name = find_label_column(table, self.label_column, required=self.require_labels)
        if name is None:
            return None
        values = table.column(name)
        if self.task == "regression":
            return targets(values)[ids]
        return class_labels(values, self.config, table.class_names(name))[ids]


def _texts(table: Table, request: _Request) -> Samples:
    texts = [_text_column(table, name) for name in find_text_columns(table, request.text_columns)]
    # Blank lines separate paragraphs in language-modelling corpora; they predict nothing.
    blank = request.task == "causal-lm"
    ids = request.kept([i for i, text in enumerate(texts[0]) if not blank or text.strip()])
    labels = request.labels(table, ids)
    length = request.longest()
    features = tokenize(
        request.tokenizer,
        [[text[i] for i in ids] for text in texts],
        length,
        progress=request.progress,
    )
    return _token_samples(features, labels, ids, request)


def _tokenized(table: Table, request: _Request) -> Samples:
    ids = request.kept(range(len(table)))
    if request.task == "question-answering":
        labels = answer_positions(table, ids, required=request.require_labels)
    else:
        labels = request.labels(table, ids)
    features = token_features(table, ids, token_labels=request.task == "causal-lm")
    return _token_samples(features, labels, ids, request)


def _windows(table: Table, request: _Request) -> Samples:
    question, context = find_text_pair(table, request.text_columns)
    answers = find_answer_column(table, request.label_column, required=request.require_labels)
    examples = read_examples(table, question, context, answers)
    # Every question has a window, so as many questions as windows wanted are enough.
    enough = None if request.limit is None else min(request.limit, len(examples))
    rows = replace(request, limit=enough).kept(range(len(examples)))
    length = request.longest()
    cut = cut_windows(
        [examples[row] for row in rows], request.tokenizer, length, progress=request.progress
    )
    labels = None if answers is None else cut.positions
    ids = [rows[row] for row in cut.rows]
    samples = replace(_token_samples(cut.features, labels, ids, request), windows=cut.windows)
    return samples.select(request.kept(range(len(samples))))


def _images(table: Table, request: _Request) -> Samples:
    ids = request.kept(range(len(table)))
    features = pixel_values(table, ids, request.tokenizer)
    return Samples(
        features=features,
        labels=request.labels(table, ids),
        ids=ids,
        task=request.task,
        image_tokens=image_tokens(features[0]["pixel_values"], request.config),
    )


def _token_samples(
    features: list[dict[str, list[int]]],
    labels: torch.Tensor | None,
    ids: list[int],
    request: _Request,
) -> Samples:
    padding = padding_of(request.tokenizer, request.config)
    if getattr(request.config, "pad_token_id", 0) is None:
        # Decoders refuse to classify a batch as long as their configuration names no pad token.
        request.config.pad_token_id = padding.token_id
    return Samples(
        features=fit_to_model(features, ids, request.config),
        labels=labels,
        ids=ids,
        task=request.task,
        padding=padding,
    )


def _text_column(table: Table, name: str) -> list[str]:
    texts = table.column(name)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            found = "nothing" if text is None else type(text).__name__
            raise DataError(
                f"row {row} holds {found} in the text column {name!r}; "
                "correct it or name other text columns"
            )
    return texts
