"""The metrics that ``datasets.load_metric`` used to give, as far as the original asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk

from fastprune.data.squad import Example
from fastprune.errors import FastpruneError
from fastprune.evaluation import answers
from fastprune.evaluation.metrics import pearson, spearman

Scores = dict[str, float]


class Metric:
    """Collects predictions and references, and scores them in the end."""

    def __init__(self, score: Callable[[list[Any], list[Any]], Scores]) -> None:
        self._score = score
        self._predictions: list[Any] = []
        self._references: list[Any] = []

    def add_batch(self, *, predictions: Iterable[Any], references: Iterable[Any]) -> None:
        """Add as many predictions as references: tensors, arrays or lists."""
        self._predictions += [_plain(value) for value in predictions]
        self._references += [_plain(value) for value in references]

    def compute(
        self,
        *,
        predictions: Iterable[Any] | None = None,
        references: Iterable[Any] | None = None,
    ) -> Scores:
        """Scores by name, over all that was added and what is given here."""
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        return self._score(self._predictions, self._references)


def load_metric(path: str, config_name: str | None = None, **_: Any) -> Metric:
    """The metric of ``glue`` and a task of it, of ``squad`` or of ``squad_v2``.

    Raises:
        FastpruneError: any other.
    """
    score = _GLUE.get(config_name or "") if path == "glue" else _OTHERS.get(path)
    if score is None:
        raise FastpruneError(
            f"no metric {path!r} {config_name or ''} is known here; use one of "
            f"{', '.join(f'glue {task}' for task in _GLUE)}, {', '.join(_OTHERS)}"
        )
    return Metric(score)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _accuracy(predictions: Sequence[int], references: Sequence[int]) -> Scores:
    return {"accuracy": float(sk.accuracy_score(references, predictions))}


def _accuracy_and_f1(predictions: Sequence[int], references: Sequence[int]) -> Scores:
    f1 = sk.f1_score(references, predictions, zero_division=0)
    return {**_accuracy(predictions, references), "f1": float(f1)}


def _matthews(predictions: Sequence[int], references: Sequence[int]) -> Scores:
    return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}


def _correlations(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    pair = np.asarray(predictions), np.asarray(references)
    return {"pearson": pearson(*pair), "spearmanr": spearman(*pair)}


def _answers(exact: str) -> Callable[[list[Any], list[Any]], Scores]:
    def score(predictions: list[Mapping[str, Any]], references: list[Mapping[str, Any]]) -> Scores:
        given = {row["id"]: row["prediction_text"] for row in predictions}
        found = {_example(row): given[row["id"]] for row in references}
        return {exact: 100 * answers.exact_match(found), "f1": 100 * answers.f1(found)}

    return score


def _example(reference: Mapping[str, Any]) -> Example:
    texts, starts = (tuple(reference["answers"][key]) for key in ("text", "answer_start"))
    return Example(reference["id"], "", "", texts, starts, may_abstain=False)


_GLUE: dict[str, Callable[[list[Any], list[Any]], Scores]] = {
    "cola": _matthews,
    "stsb": _correlations,
    **dict.fromkeys(("mrpc", "qqp"), _accuracy_and_f1),
    **dict.fromkeys(
        ("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli"), _accuracy
    ),
}
_OTHERS = {"squad": _answers("exact_match"), "squad_v2": _answers("exact")}
