from __future__ import annotations

import pytest
from transformers import BertConfig

VOCABULARY = 24


@pytest.fixture
def config() -> BertConfig:
    """A two-class BERT whose vocabulary is the tokenizer's."""
    return BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=2,
        architectures=["BertForSequenceClassification"],
    )
