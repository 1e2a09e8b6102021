"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from assets import assets, sst2
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

__all__ = ["assets", "sst2", "tokenizer"]

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
LONGEST = (
    "test_sst2.py",
    "test_demo.py",
    "test_sanitized.py",
    "test_data_parallel.py",
    "test_compile_gate.py",
    "test_torchrun.py",
    "test_gpu_session.py",
    "test_kills.py",
    "test_checkpoint.py",
    "test_staged_models.py",
)
"""Files with single tests, or things shared by a file's tests, that take long."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "."]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: started last, one core would do it while the others idle.

    What starts early is not handed on to another worker either, which would have to make what the
    tests of a file share once more.
    """
    items.sort(key=lambda item: item.path.name not in LONGEST)


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


@pytest.fixture(autouse=True, scope="session")
def own_cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small products and solutions, where threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
