"""Text to token features, in batches, and the checks that tokenizer and model belong together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fastprune.data.samples import Padding
from fastprune.data.tasks import Task
from fastprune.errors import DataError
from fastprune.progress import progress_bar

_CHUNK = 1024
# Bounds the memory of attention; the work of Kwon et al. (2022) uses 128 and, for SQuAD, 384.
_LONGEST: dict[Task, int] = {"causal-lm": 512, "question-answering": 384}
_DEFAULT_LONGEST = 128


def tokenize(
    tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, *, progress: bool
) -> list[dict[str, list[int]]]:
    """Unpadded token features of texts or text pairs.

    Args:
        texts: one or two columns of equal length.
        max_length: longer samples are truncated, of a pair the longer text first.
    """
    features: list[dict[str, list[int]]] = []
    starts = range(0, len(texts[0]), _CHUNK)
    for start in progress_bar("tokenize", starts, enabled=progress):
        encoded = tokenizer(
            *(column[start : start + _CHUNK] for column in texts),
            truncation=True,
            max_length=max_length,
            return_attention_mask=True,
        )
        names = list(encoded.keys())
        features += [
            dict(zip(names, row, strict=True))
            for row in zip(*(encoded[name] for name in names), strict=True)
        ]
    return features


def longest_sample(tokenizer: Any, config: Any, task: Task, wanted: int | None) -> int:
    """The truncation length: as wanted, else the task's default; never beyond the model.

    Raises:
        DataError: ``wanted`` leaves no room for text or exceeds the model's positions.
    """
    limit = position_limit(config)
    if wanted is None:
        known = [_LONGEST.get(task, _DEFAULT_LONGEST), tokenizer.model_max_length, limit]
        return min(length for length in known if length is not None)
    if limit is not None and wanted > limit:
        raise DataError(f"max_length {wanted} exceeds the {limit} tokens that the model takes")
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if wanted <= special:
        raise DataError(f"max_length {wanted} leaves no room for text; give {special + 1} or more")
    return wanted


def position_limit(config: Any) -> int | None:
    """Tokens a model with learned positions can take; ``None`` where there is no limit."""
    text = _text_config(config)
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or hasattr(text, "rope_theta") or hasattr(text, "rope_parameters"):
        return None
    # RoBERTa and its kin count positions from the padding index.
    offset = "roberta" in text.model_type or text.model_type == "camembert"
    return int(positions) - (text.pad_token_id + 1 if offset else 0)


def padding_of(tokenizer: Any, config: Any) -> Padding:
    """The pad token of the model, else of the tokenizer, else (in decoders) the end token.

    The model's comes first: decoders that classify look for it to find a text's last token.

    Raises:
        DataError: there is none of them.
    """
    known = (
        getattr(_text_config(config), "pad_token_id", None),
        getattr(tokenizer, "pad_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
        getattr(_text_config(config), "eos_token_id", None),
    )
    vocabulary = getattr(_text_config(config), "vocab_size", sys.maxsize)
    # Some configurations say -1 for none, list several end tokens, or keep another model's.
    usable = (token for token in known if isinstance(token, int) and 0 <= token < vocabulary)
    token = next(usable, None)
    if token is None and tokenizer is not None:
        raise DataError("the tokenizer has neither a pad nor an end token; set its pad_token")
    return Padding(token or 0, getattr(tokenizer, "pad_token_type_id", 0))


def fit_to_model(
    features: list[dict[str, list[int]]], ids: Sequence[int], config: Any
) -> list[dict[str, list[int]]]:
    """Check token features against the model; drop token types it has no embedding for.

    Raises:
        DataError: a sample is empty, too long, or has a token the model's vocabulary lacks.
    """
    text = _text_config(config)
    vocabulary = getattr(text, "vocab_size", None)
    limit = position_limit(config)
    for row, sample in zip(ids, features, strict=True):
        tokens = sample["input_ids"]
        if not tokens or not any(sample["attention_mask"]):
            raise DataError(f"row {row} has no tokens; remove it or give it text")
        if limit is not None and len(tokens) > limit:
            raise DataError(
                f"row {row} has {len(tokens)} tokens, but the model takes {limit}; "
                f"truncate to max_length={limit} or less"
            )
        if vocabulary is not None and not 0 <= min(tokens) <= max(tokens) < vocabulary:
            wrong = next(token for token in tokens if not 0 <= token < vocabulary)
            raise DataError(
                f"row {row} has token {wrong}, but the model's vocabulary ends at "
                f"{vocabulary - 1}; use the tokenizer the model was trained with"
            )
    # Some tokenizers emit token types that DistilBERT rejects and GPT-2 misreads as tokens.
    if config is not None and getattr(text, "type_vocab_size", 0) < 2:
        return [
            {name: row for name, row in sample.items() if name != "token_type_ids"}
            for sample in features
        ]
    return features


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config
