from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)

from fastprune.data import Samples, load_samples
from fastprune.data.squad import Example, Window
from fastprune.errors import DataError, FastpruneError, NumericalError
from fastprune.evaluation import METRICS, embed, embedding_fidelity, evaluate

EPS = torch.finfo(torch.float32).eps
HIDDEN, VOCABULARY = 16, 40
SIZES = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 24}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}


def rows(n=13, classes=2):
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": rng.integers(1, VOCABULARY, size=rng.integers(2, 12)).tolist(),
            "label": int(rng.integers(classes)),
        }
        for _ in range(n)
    ]


def windows(n=7):
    """Tokenised questions whose first two tokens are the question; one window each."""
    rng = np.random.default_rng(1)
    features, places = [], []
    for i in range(n):
        words = int(rng.integers(3, 9))
        tokens = rng.integers(1, VOCABULARY, size=words + 2).tolist()
        features.append({"input_ids": tokens, "attention_mask": [1] * len(tokens)})
        spans = [(2 * w, 2 * w + 1) for w in range(words)]
        context = " ".join("abcdefghi"[:words])
        places.append(
            Window(Example(str(i), "", context, ("c",), (4,), False), [None, None, *spans], 0)
        )
    labels = torch.tensor([[4, 4]] * n)
    return Samples(features, labels, list(range(n)), "question-answering", windows=places)


def images(n=5):
    features = [{"pixel_values": image} for image in torch.randn(n, 3, 8, 8)]
    return Samples(features, torch.arange(n) % 3, list(range(n)), "image")


def case(task):
    torch.manual_seed(0)
    if task == "image":
        sizes = {
            key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
        }
        config = ViTConfig(**sizes, num_attention_heads=4, image_size=8, patch_size=4, num_labels=3)
        return ViTForImageClassification(config), images()
    if task == "causal-lm":
        config = GPT2Config(
            vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=32
        )
        return GPT2LMHeadModel(config), load_samples(rows(), model_config=config, task=task)
    config = BertConfig(**SIZES, num_labels=1 if task == "regression" else 2)
    if task == "question-answering":
        return BertForQuestionAnswering(config), windows()
    model = (BertModel if task == "embedding" else BertForSequenceClassification)(config)
    return model, load_samples(rows(), model_config=config, task=task)


@pytest.mark.parametrize("task", [task for task, metrics in METRICS.items() if metrics])
def test_scores_do_not_depend_on_the_batch(task):
    model, samples = case(task)
    reference = case(task)[0].requires_grad_(False) if task == "embedding" else None
    if reference is not None:
        for parameter in reference.parameters():
            parameter.mul_(1.5)
    for metric in METRICS[task]:
        one, three, all_ = (
            evaluate(model, samples, metric, batch_size=size, reference=reference)
            for size in (1, 3, 100)
        )
        # Smooth scores move by the rounding of a two-layer forward: some dozens of sums of at
        # most 24 terms each. Ranks and classes of random logits do not move at all.
        assert one == pytest.approx(three, rel=50 * 24 * EPS)
        assert one == pytest.approx(all_, rel=50 * 24 * EPS)


def test_accuracy_is_that_of_one_sample_at_a_time():
    model, samples = case("classification")
    model.eval()
    right = 0
    for feature, label in zip(samples.features, samples.labels, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([feature["input_ids"]])).logits
        right += int(logits.argmax() == label)
    assert evaluate(model, samples, batch_size=4) == right / len(samples)


def test_perplexity_is_that_of_the_whole_corpus():
    model, samples = case("causal-lm")
    model.eval()
    losses, tokens = 0.0, 0
    for feature in samples.features:
        ids = torch.tensor(feature["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        losses += float(F.cross_entropy(logits[:-1], ids[1:], reduction="sum"))
        tokens += len(ids) - 1
    assert evaluate(model, samples) == pytest.approx(math.exp(losses / tokens), rel=1200 * EPS)


def test_training_mode_and_dropout_change_nothing():
    model, samples = case("classification")
    expected = evaluate(model.eval(), samples, "loss")
    model.train()
    model.classifier.eval()
    assert evaluate(model, samples, "loss") == expected
    assert model.training
    assert model.bert.encoder.training
    assert not model.classifier.training


def test_the_mode_comes_back_after_an_error_too():
    model, samples = case("classification")
    model.train()
    with torch.no_grad():
        model.classifier.bias.fill_(math.nan)
    with pytest.raises(NumericalError):
        evaluate(model, samples)
    assert model.training
    assert all(module.training for module in model.modules())


def test_non_finite_outputs_name_batch_and_row():
    model, samples = case("classification")
    samples = samples.select([4, 9, 2])
    samples.features[1]["input_ids"][0] = 0
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[0] = math.inf
    with pytest.raises(NumericalError, match=r"row 9 \(evaluation batch \d\) is not finite"):
        evaluate(model, samples, batch_size=1)


def test_missing_or_impossible_labels():
    model, samples = case("classification")
    unlabelled = load_samples(
        [{"input_ids": [1, 2]}],
        model_config=model.config,
        task="classification",
        require_labels=False,
    )
    with pytest.raises(DataError, match="accuracy needs labels"):
        evaluate(model, unlabelled)
    with pytest.raises(DataError, match="class 4, but the model only 0 to 1"):
        evaluate(model, load_samples(rows(classes=5), task="classification"))
    with pytest.raises(FastpruneError, match="does not fit"):
        evaluate(model, samples, "exact_match")


def test_half_precision_stays_close():
    model, samples = case("classification")
    full = evaluate(model, samples, "loss")
    half = evaluate(model, samples, "loss", dtype=torch.bfloat16)
    assert half != full
    assert half == pytest.approx(full, rel=10 * torch.finfo(torch.bfloat16).eps)


def test_embeddings_are_means_of_valid_tokens_at_unit_length():
    model, samples = case("embedding")
    vectors = embed(model, samples, batch_size=5)
    assert vectors.shape == (len(samples), HIDDEN)
    ids = torch.tensor([samples.features[3]["input_ids"]])
    with torch.no_grad():
        mean = model.eval()(input_ids=ids).last_hidden_state.mean(1)
    expected = F.normalize(mean, dim=-1)[0].numpy()
    # Components of a unit vector; the bound is that of the rounding above.
    np.testing.assert_allclose(vectors[3], expected, atol=1200 * EPS)


def test_embedding_fidelity():
    model, samples = case("embedding")
    other = BertModel(model.config)
    same = embedding_fidelity(model, model, samples)
    assert same.similarity == pytest.approx(1)
    assert same.cosine == pytest.approx(1, abs=16 * EPS)
    fidelity = embedding_fidelity(model, other, samples)
    assert fidelity.similarity < 0.9
    assert embedding_fidelity(embed(model, samples), other, samples) == fidelity
    assert evaluate(other, samples, reference=model) == fidelity.similarity
    with pytest.raises(DataError, match="pass the dense model as reference"):
        evaluate(model, samples)


def test_answers_need_their_questions():
    model, samples = case("question-answering")
    bare = Samples(samples.features, samples.labels, samples.ids, "question-answering")
    with pytest.raises(DataError, match="questions and contexts"):
        evaluate(model, bare)


def test_dense_accuracy_of_the_shared_model(assets):
    path = assets / "models" / "minilm-sst2"
    model = AutoModelForSequenceClassification.from_pretrained(path)
    samples = load_samples(
        assets / "data" / "sst2" / "validation.tsv",
        AutoTokenizer.from_pretrained(path),
        model_config=model.config,
    )
    assert len(samples) == 872
    assert round(evaluate(model, samples), 4) == 0.8933
