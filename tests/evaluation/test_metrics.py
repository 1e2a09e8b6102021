from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from fastprune.data import TASKS, Samples, hub
from fastprune.errors import FastpruneError
from fastprune.evaluation import METRICS, resolve_metric
from fastprune.evaluation.metrics import find_metric

EPS = np.finfo(np.float64).eps


def score(task, name, *arguments):
    return find_metric(name, task)(*map(np.asarray, arguments))


def samples(task, metric=None):
    features = [{"input_ids": [1], "attention_mask": [1]}]
    return Samples(features, None, [0], task, metric=metric)


# Predictions 1 1 0 1 against labels 1 0 0 1: 2 true positives, 1 false positive, 1 true negative.
LOGITS = [[0.0, 2.0], [1.0, 3.0], [5.0, 1.0], [-1.0, 0.0]]
LABELS = [1, 0, 0, 1]


def test_class_metrics_by_hand():
    assert score("classification", "accuracy", LOGITS, LABELS) == 3 / 4
    assert score("classification", "f1", LOGITS, LABELS) == pytest.approx(2 * 2 / (2 * 2 + 1))
    matthews = (2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1)
    assert score("classification", "matthews", LOGITS, LABELS) == pytest.approx(matthews)


def test_class_metrics_match_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(4, size=50)
    predicted = logits.argmax(1)
    probabilities = torch.tensor(logits).softmax(1).numpy()
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro"),
        "matthews": sk.matthews_corrcoef(labels, predicted),
        "loss": sk.log_loss(labels, probabilities),
    }
    for name in METRICS["classification"]:
        # A softmax, a logarithm and a mean over 50 samples.
        assert score("image", name, logits, labels) == pytest.approx(expected[name], rel=60 * EPS)


def test_correlations_match_scipy():
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    assert score("regression", "pearson", x, y) == stats.pearsonr(x, y).statistic
    assert score("regression", "spearman", x, np.exp(x)) == pytest.approx(1, abs=30 * EPS)
    assert score("regression", "loss", x, y) == pytest.approx(((x - y) ** 2).mean())


def test_constant_predictions_score_zero_not_nan():
    assert score("regression", "spearman", [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0
    assert score("regression", "pearson", [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0
    assert score("classification", "matthews", [[1, 0], [1, 0]], [0, 1]) == 0
    with pytest.raises(FastpruneError, match="two samples"):
        score("regression", "pearson", [1.0], [1.0])


def test_perplexity_weighs_tokens_not_samples():
    losses, tokens = [2.0, 9.0], [1.0, 9.0]
    assert score("causal-lm", "loss", losses, tokens) == 1.1
    assert score("causal-lm", "perplexity", losses, tokens) == math.exp(1.1)
    assert score("causal-lm", "perplexity", [1e6], [1.0]) == math.inf
    with pytest.raises(FastpruneError, match="two tokens"):
        score("causal-lm", "loss", [0.0], [0.0])


def test_similarity_compares_pairs():
    rng = np.random.default_rng(2)
    dense, pruned = (rng.normal(size=(6, 4)) for _ in range(2))
    dense, pruned = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (dense, pruned))
    pairs = [(i, j) for i in range(6) for j in range(i)]
    expected = stats.spearmanr(
        [dense[i] @ dense[j] for i, j in pairs], [pruned[i] @ pruned[j] for i, j in pairs]
    ).statistic
    assert score("embedding", "similarity", pruned, dense) == pytest.approx(expected)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert score("embedding", "similarity", dense @ rotation, dense) == pytest.approx(1)
    assert score("embedding", "cosine", -dense, dense) == pytest.approx(-1)


def test_every_task_has_metrics_and_a_default():
    assert set(METRICS) == set(TASKS)
    scored = [task for task in TASKS if METRICS[task]]
    defaults = {task: resolve_metric(None, samples(task)) for task in scored}
    assert defaults == {
        "classification": "accuracy",
        "image": "accuracy",
        "regression": "spearman",
        "question-answering": "f1",
        "causal-lm": "perplexity",
        "embedding": "similarity",
    }
    assert resolve_metric(None, samples("classification", "matthews")) == "matthews"
    assert resolve_metric(None, samples("embedding", "matthews")) == "similarity"


def test_a_task_without_a_metric_is_said_to_have_none():
    with pytest.raises(FastpruneError, match="no score for segmentation"):
        resolve_metric(None, samples("segmentation"))


@pytest.mark.parametrize("name", hub.TASKS)
def test_hub_tasks_name_metrics_that_exist(name):
    tasks = {"stsb": "regression", "squad": "question-answering", "squad_v2": "question-answering"}
    assert hub.TASKS[name].metric in METRICS[tasks.get(name, "classification")]


def test_unknown_metrics_are_answered_with_the_known():
    with pytest.raises(FastpruneError, match=r"no metric 'acuracy'; .*matthews.*mean accuracy"):
        resolve_metric("acuracy", samples("classification"))
    with pytest.raises(FastpruneError, match="'spearman' does not fit the task classification"):
        resolve_metric("spearman", samples("classification"))
