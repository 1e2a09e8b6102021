from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "in",
    "mat",
    "house",
    "good",
    "bad",
    "film",
    "very",
    "who",
    "where",
    "was",
    "is",
    "paris",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "."]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A word tokenizer with BERT's special tokens; ids follow SPECIAL + WORDS."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def config() -> BertConfig:
    """A two-class BERT whose vocabulary is the tokenizer's."""
    return BertConfig(
        vocab_size=len(SPECIAL + WORDS),
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=2,
        architectures=["BertForSequenceClassification"],
    )
