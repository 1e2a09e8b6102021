"""Whether labels are ones that a model can be wrong about."""

from __future__ import annotations

from typing import Any

import torch

from fastprune.data.samples import Samples
from fastprune.errors import DataError


def check_labels(samples: Samples, config: Any) -> None:
    """Refuse labels that a model of this configuration cannot predict.

    Args:
        samples: perhaps without labels.
        config: the model's.

    Raises:
        DataError: a class the model lacks, or an answer beyond the text.
    """
    if samples.labels is None:
        return
    if not torch.isfinite(samples.labels).all():
        raise DataError("a label is not finite; correct the labels")
    if samples.task == "question-answering":
        _check_answers(samples)
    classes = getattr(config, "num_labels", None)
    if samples.task not in ("classification", "image") or not classes:
        return
    if samples.labels.is_floating_point():
        raise DataError(
            f"labels are numbers of {samples.labels.dtype}, but the model tells classes apart; "
            "give whole numbers"
        )
    for label in (int(samples.labels.min()), int(samples.labels.max())):
        if not 0 <= label < classes:
            raise DataError(
                f"the data have class {label}, but the model only 0 to {classes - 1}; use the "
                "model's own task data"
            )


def _check_answers(samples: Samples) -> None:
    """The loss would leave out such answers without a word."""
    assert samples.labels is not None
    for number, (answer, width) in enumerate(
        zip(samples.labels.tolist(), samples.widths, strict=True)
    ):
        if not all(0 <= position < width for position in answer):
            raise DataError(
                f"sample {number} has its answer at tokens {answer[0]} to {answer[1]}, but only "
                f"{width} tokens; correct the labels"
            )
