from __future__ import annotations

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)

from fastprune.data import load_samples, task_of
from fastprune.errors import DataError

TINY = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
ROWS = [
    {"sentence": "the cat sat on the mat", "label": 1},
    {"sentence": "bad film", "label": 0},
    {"sentence": "a very good film .", "label": 1},
    {"sentence": "dog", "label": 0},
]


def tokens(samples):
    return [feature["input_ids"] for feature in samples.features]


# Sources


def test_texts_become_token_features(tokenizer, config):
    samples = load_samples(ROWS, tokenizer, model_config=config)
    assert tokens(samples)[1] == [2, 16, 17, 3]
    assert samples.features[1]["token_type_ids"] == [0, 0, 0, 0]
    assert samples.labels.dtype == torch.int64
    assert (samples.task, samples.ids) == ("classification", [0, 1, 2, 3])
    assert samples.mean_length == (8 + 4 + 7 + 3) / 4


def test_dataset_generator_and_samples_are_sources_too(tokenizer, config):
    expected = load_samples(ROWS, tokenizer, model_config=config)
    for source in (
        Dataset.from_list(ROWS),
        Dataset.from_list(ROWS).with_format("torch"),
        iter(ROWS),
    ):
        samples = load_samples(source, tokenizer, model_config=config)
        assert samples.features == expected.features
        assert torch.equal(samples.labels, expected.labels)
    assert load_samples(expected) is expected


def test_pairs_keep_their_order_and_types(tokenizer, config):
    rows = [{"hypothesis": "dog", "premise": "a cat", "label": 0}]
    samples = load_samples(rows, tokenizer, model_config=config)
    assert tokens(samples) == [[2, 6, 7, 3, 8, 3]]
    assert samples.features[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_limit_draws_what_draw_draws(tokenizer, config):
    everything = load_samples(ROWS, tokenizer, model_config=config)
    limited = load_samples(ROWS, tokenizer, model_config=config, limit=3, seed=7)
    drawn = everything.draw(3, seed=7)
    assert limited.ids == drawn.ids
    assert limited.features == drawn.features
    assert torch.equal(limited.labels, drawn.labels)


@pytest.mark.parametrize("side", ["left", "right"])
def test_dataloader_round_trip(tokenizer, config, side):
    expected = load_samples(ROWS, tokenizer, model_config=config)

    def collate(positions):
        encoded = tokenizer.pad(
            [expected.features[p] for p in positions], padding_side=side, return_tensors="pt"
        )
        encoded["labels"] = expected.labels[positions]
        encoded["idx"] = torch.tensor(positions)
        return encoded

    loader = DataLoader(range(4), batch_size=3, collate_fn=collate)
    for source in (loader, iter(loader)):
        samples = load_samples(source, model_config=config)
        assert samples.features == expected.features
        assert torch.equal(samples.labels, expected.labels)


def test_tokenised_dataset_needs_no_tokenizer(config):
    rows = Dataset.from_list(
        [{"input_ids": [2, 7, 3], "label": 1}, {"input_ids": [2, 3], "label": 0}]
    )
    samples = load_samples(rows, model_config=config)
    assert tokens(samples) == [[2, 7, 3], [2, 3]]
    assert samples.features[0]["attention_mask"] == [1, 1, 1]


def test_images_from_pixels_and_through_a_processor():
    config = ViTConfig(
        image_size=8, patch_size=4, num_labels=3, architectures=["ViTForImageClassification"]
    )
    pixels = torch.rand(2, 3, 8, 8)
    rows = [{"pixel_values": image, "label": i} for i, image in enumerate(pixels)]
    samples = load_samples(rows, model_config=config)
    assert samples.mean_length == 5
    assert torch.equal(next(samples.batches(2))["pixel_values"], pixels)

    def processor(images, return_tensors):
        return {"pixel_values": [torch.full((3, 8, 8), float(image)) for image in images]}

    samples = load_samples([{"image": 4, "label": 2}], processor, model_config=config)
    assert samples.features[0]["pixel_values"].unique().item() == 4
    with pytest.raises(DataError, match="image processor"):
        load_samples([{"image": 4, "label": 2}], model_config=config)
    with pytest.raises(DataError, match=r"shape \[3, 4, 4\]"):
        load_samples(
            [*rows, {"pixel_values": torch.rand(3, 4, 4), "label": 0}], model_config=config
        )


# Tasks


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (BertForSequenceClassification(BertConfig(**TINY, num_labels=3)), "classification"),
        (BertForSequenceClassification(BertConfig(**TINY, num_labels=1)), "regression"),
        (BertForQuestionAnswering(BertConfig(**TINY)), "question-answering"),
        (BertModel(BertConfig(**TINY)), "embedding"),
        (GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2)), "causal-lm"),
        (
            ViTForImageClassification(
                ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
            ),
            "image",
        ),
    ],
)
def test_task_of_model(model, task):
    assert task_of(model) == task


def test_task_must_be_known(tokenizer):
    with pytest.raises(DataError, match="pass task="):
        load_samples(["a cat"], tokenizer, model_config=BertConfig())
    with pytest.raises(DataError, match="BertForMaskedLM"):
        load_samples(
            ["a cat"], tokenizer, model_config=BertConfig(architectures=["BertForMaskedLM"])
        )


def test_regression_targets_are_float(tokenizer, config):
    rows = [{"text": "cat", "score": "2.5"}, {"text": "dog", "score": 1}]
    samples = load_samples(rows, tokenizer, model_config=config, task="regression")
    assert samples.labels.dtype == torch.float32
    assert samples.labels.tolist() == [2.5, 1.0]
    rows[1]["score"] = float("nan")
    with pytest.raises(DataError, match="row 1 has the target nan"):
        load_samples(rows, tokenizer, model_config=config, task="regression")


def test_language_modelling_skips_blank_lines_but_keeps_row_numbers(tokenizer, config):
    samples = load_samples(
        ["the cat", "", "  ", "a dog"], tokenizer, model_config=config, task="causal-lm"
    )
    assert samples.ids == [0, 3]
    assert samples.labels is None
    with pytest.raises(DataError, match="no samples"):
        load_samples(["", " "], tokenizer, model_config=config, task="causal-lm")


def test_token_labels_of_a_language_model_are_kept(config):
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "labels": torch.tensor([[-100, 6, 7, -100]]),
    }
    samples = load_samples([batch], model_config=config, task="causal-lm")
    assert next(samples.batches(1))["labels"].tolist() == [[-100, 6, 7]]


def test_embedding_needs_no_labels(tokenizer, config):
    assert load_samples(["a cat"], tokenizer, model_config=config, task="embedding").labels is None


# Labels


def test_label_names_go_through_the_model(tokenizer, config):
    config.label2id = {"NEGATIVE": 0, "POSITIVE": 1}
    rows = [{"text": "cat", "label": "positive"}, {"text": "dog", "label": "0"}]
    assert load_samples(rows, tokenizer, model_config=config).labels.tolist() == [1, 0]


def test_the_models_order_of_classes_wins(tokenizer, config):
    config.label2id = {"positive": 0, "negative": 1}
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])}
    )
    rows = Dataset.from_dict({"text": ["cat", "dog"], "label": [0, 1]}, features=features)
    assert load_samples(rows, tokenizer, model_config=config).labels.tolist() == [1, 0]


@pytest.mark.parametrize("label", [2, -2, "7", "maybe", 0.5, [1]])
def test_label_the_model_does_not_have(tokenizer, config, label):
    rows = [*ROWS, {"sentence": "cat", "label": label}]
    with pytest.raises(DataError, match=r"row 4 has the label .*the model has 0 to 1") as caught:
        load_samples(rows, tokenizer, model_config=config, limit=1)
    assert repr(label) in str(caught.value)


@pytest.mark.parametrize("label", [None, "", -1])
def test_row_without_label(tokenizer, config, label):
    rows = [*ROWS, {"sentence": "cat", "label": label}]
    with pytest.raises(DataError, match="row 4 is unlabelled"):
        load_samples(rows, tokenizer, model_config=config)


def test_labels_may_be_optional(tokenizer, config):
    with pytest.raises(DataError, match="unlabelled: the columns are 'text'"):
        load_samples(["a cat"], tokenizer, model_config=config)
    samples = load_samples(["a cat"], tokenizer, model_config=config, require_labels=False)
    assert samples.labels is None
    samples = load_samples(ROWS, tokenizer, model_config=config, require_labels=False)
    assert samples.labels.tolist() == [1, 0, 1, 0]


# Bad input


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no samples"),
        ([ROWS[0], "text"], "row 1 is str"),
        ([3], "row 0 is int"),
        (42, "data of type int"),
        ({"sentence": ["a"]}, "data of type dict"),
        ([{"label": 1}], "no column holds text"),
        ([*ROWS, {"sentence": None, "label": 1}], "row 4 holds nothing in the text column"),
        ([*ROWS, {"sentence": 5, "label": 1}], "row 4 holds int"),
        (DatasetDict(train=Dataset.from_list(ROWS)), "one of its splits: train"),
        (DataLoader(torch.arange(4)), "batch 0 is Tensor"),
        (DataLoader([{"x": 1}]), "batch 0 has x"),
        ("no/such/file.tsv", "there is no file"),
        ("sst3", "did you mean sst2"),
        ("imdb", "the tasks are cola, sst2"),
    ],
)
def test_unusable_sources(tokenizer, config, source, message):
    with pytest.raises(DataError, match=message):
        load_samples(source, tokenizer, model_config=config)


def test_missing_columns_are_named_with_a_suggestion(tokenizer, config):
    with pytest.raises(
        DataError, match=r"no column 'sentense'.*'sentence', 'label'.*mean 'sentence'"
    ):
        load_samples(ROWS, tokenizer, model_config=config, text_columns="sentense")
    with pytest.raises(DataError, match="no column 'gold'; the columns are 'sentence', 'label'"):
        load_samples(ROWS, tokenizer, model_config=config, label_column="gold")
    with pytest.raises(DataError, match="3 text columns"):
        load_samples(ROWS, tokenizer, model_config=config, text_columns=["a", "b", "c"])


def test_wrong_tokenizer_is_named(tokenizer, config):
    config.vocab_size = 10
    with pytest.raises(DataError, match=r"row 0 has token 11, .* ends at 9; use the tokenizer"):
        load_samples(ROWS, tokenizer, model_config=config)


def test_text_needs_a_tokenizer(config):
    with pytest.raises(DataError, match="pass the model's tokenizer"):
        load_samples(ROWS, model_config=config)


def test_lengths_are_bounded_by_tokenizer_and_model(tokenizer, config):
    long = [{"text": "cat " * 200, "label": 1}]
    assert len(tokens(load_samples(long, tokenizer, model_config=config))[0]) == 64
    samples = load_samples(long, tokenizer, model_config=config, max_length=5)
    assert tokens(samples) == [[2, 7, 7, 7, 3]]
    with pytest.raises(DataError, match="max_length 65 exceeds the 64"):
        load_samples(long, tokenizer, model_config=config, max_length=65)
    with pytest.raises(DataError, match="max_length 3 leaves no room"):
        load_samples(long, tokenizer, model_config=config, max_length=3)
    with pytest.raises(DataError, match="row 0 has 65 tokens, but the model takes 64"):
        load_samples([{"input_ids": [5] * 65, "label": 0}], model_config=config)


def test_row_without_tokens(config):
    with pytest.raises(DataError, match="row 1 has no tokens"):
        load_samples(
            [{"input_ids": [5], "label": 0}, {"input_ids": [], "label": 0}], model_config=config
        )


def test_decoders_are_padded_with_their_end_token(tokenizer):
    config = GPT2Config(
        vocab_size=40,
        n_embd=8,
        n_layer=1,
        n_head=2,
        eos_token_id=3,
        bos_token_id=3,
        architectures=["GPT2ForSequenceClassification"],
    )
    decoder = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]")
    samples = load_samples(ROWS, decoder, model_config=config)
    assert samples.padding.token_id == 3
    assert "token_type_ids" not in samples.features[0]
    batch = next(samples.batches(4))
    batch.pop("sample_index")
    assert GPT2ForSequenceClassification(config)(**batch).logits.shape == (4, 2)
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    config.pad_token_id = config.eos_token_id = None
    with pytest.raises(DataError, match="neither a pad nor an end token"):
        load_samples(ROWS, bare, model_config=config)


# Hub


def test_hub_tasks_know_their_columns_splits_and_metric(tokenizer, config, monkeypatch):
    asked = []

    def load_dataset(*where, split):
        asked.append((*where, split))
        rows = [{"premise": "a cat", "hypothesis": "dog", "label": 1, "idx": 0}]
        return Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    samples = load_samples("glue/MNLI-mismatched", tokenizer, model_config=config, split="eval")
    load_samples("mnli", tokenizer, model_config=config)
    assert asked == [
        ("nyu-mll/glue", "mnli", "validation_mismatched"),
        ("nyu-mll/glue", "mnli", "train"),
    ]
    assert tokens(samples) == [[2, 6, 7, 3, 8, 3]]
    assert samples.metric == "accuracy"


def test_unreachable_hub_names_the_cure(tokenizer, config, monkeypatch):
    def load_dataset(*where, split):
        raise ConnectionError("name or service not known")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"ConnectionError.*local file.*HF_HUB_OFFLINE"):
        load_samples("cola", tokenizer, model_config=config)
