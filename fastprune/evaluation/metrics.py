"""Scores by name, per task.

scikit-learn and ``scipy.stats`` are imported where they are needed: they take half a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
from scipy.special import log_softmax

from fastprune.data import Samples, Task
from fastprune.errors import FastpruneError
from fastprune.evaluation import answers

Metric = Callable[..., float]
"""``(predictions, references) -> score``; answers carry their references, and come alone."""

Array = np.ndarray[Any, Any]


def accuracy(logits: Array, labels: Array) -> float:
    """Share of right classes: logits ``[samples, classes]``, labels ``[samples]``."""
    from sklearn import metrics as sk

    return float(sk.accuracy_score(labels, logits.argmax(-1)))


def f1(logits: Array, labels: Array) -> float:
    """F1 of class 1 if there are two classes, otherwise the mean over classes."""
    from sklearn import metrics as sk

    average = "binary" if logits.shape[-1] == 2 else "macro"
    return float(sk.f1_score(labels, logits.argmax(-1), average=average, zero_division=0))


def matthews(logits: Array, labels: Array) -> float:
    """Matthews correlation coefficient, 0 for a constant prediction."""
    from sklearn import metrics as sk

    return float(sk.matthews_corrcoef(labels, logits.argmax(-1)))


def cross_entropy(logits: Array, labels: Array) -> float:
    """Mean negative log-likelihood in nats."""
    return float(-log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean())


def mean_squared_error(predictions: Array, targets: Array) -> float:
    """Mean squared difference: both ``[samples]``."""
    from sklearn import metrics as sk

    return float(sk.mean_squared_error(targets, predictions))


def correlation(kind: str, predictions: Array, targets: Array) -> float:
    """``pearsonr`` or ``spearmanr`` of ``scipy.stats``; a constant correlates with nothing: 0."""
    from scipy import stats

    if len(targets) < 2:
        raise FastpruneError("a correlation needs two samples or more; give more data")
    if np.ptp(predictions) == 0 or np.ptp(targets) == 0:
        return 0.0
    return float(getattr(stats, kind)(predictions, targets).statistic)


pearson = partial(correlation, "pearsonr")
spearman = partial(correlation, "spearmanr")


def token_loss(losses: Array, tokens: Array) -> float:
    """Mean loss per predicted token: summed losses and token counts, both ``[samples]``."""
    if tokens.sum() == 0:
        raise FastpruneError("no token is predicted; give texts of two tokens or more")
    return float(losses.sum() / tokens.sum())


def perplexity(losses: Array, tokens: Array) -> float:
    """Exponential of the mean loss per token; infinite where that overflows."""
    try:
        return math.exp(token_loss(losses, tokens))
    except OverflowError:
        return math.inf


def similarity(vectors: Array, reference: Array) -> float:
    """Spearman correlation of the pairwise cosine similarities: both ``[samples, width]``.

    The vectors have unit length. Only pairs of different samples count.
    """
    pairs = np.triu_indices(len(vectors), k=1)
    return spearman((vectors @ vectors.T)[pairs], (reference @ reference.T)[pairs])


def cosine(vectors: Array, reference: Array) -> float:
    """Mean cosine of each vector with its reference; all have unit length."""
    return float((vectors * reference).sum(-1).mean())


_CLASSES: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "loss": cross_entropy,
}

# The first of a task is its default.
METRICS: dict[Task, dict[str, Metric]] = {
    "classification": _CLASSES,
    "image": _CLASSES,
    "regression": {"spearman": spearman, "pearson": pearson, "loss": mean_squared_error},
    "question-answering": {"f1": answers.f1, "exact_match": answers.exact_match},
    "causal-lm": {"perplexity": perplexity, "loss": token_loss},
    "embedding": {"similarity": similarity, "cosine": cosine},
    "segmentation": {},
}

LOWER_IS_BETTER = frozenset({"loss", "perplexity"})


def resolve_metric(name: str | None, samples: Samples) -> str:
    """The metric's name, or without one what is customary for the data set, else the task.

    Raises:
        FastpruneError: the samples' task has no such metric; lists those it has.
    """
    if not METRICS[samples.task]:
        raise FastpruneError(
            f"there is no score for {samples.task}; leave the evaluation data out, and score what "
            "comes out yourself"
        )
    if name is None:
        known = METRICS[samples.task]
        # A task's texts may serve another purpose, as when embeddings are compared on them.
        return samples.metric if samples.metric in known else next(iter(known))
    find_metric(name, samples.task)
    return name


def find_metric(name: str, task: Task) -> Metric:
    """The metric of that name for that task.

    Raises:
        FastpruneError: the task has no such metric; lists those it has.
    """
    known: Mapping[str, Metric] = METRICS[task]
    if name in known:
        return known[name]
    if any(name in others for others in METRICS.values()):
        problem = f"metric {name!r} does not fit the task {task}"
    else:
        problem = f"there is no metric {name!r}"
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise FastpruneError(f"{problem}; choose one of {', '.join(known)}{hint}")
