"""Labels a model lacks are refused before a loss makes something else of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from tiny_samples import text_samples

from fastprune.calibration import collect_statistics
from fastprune.errors import DataError


def test_classes_and_answers_beyond_the_model():
    classes = replace(text_samples("classification"), labels=torch.full((7,), 2))
    with pytest.raises(DataError, match="class 2, but the model only 0 to 1"):
        collect_statistics(tiny("bert").float(), classes, targets="labels")
    answers = text_samples("question-answering")
    answers.labels[2, 0] = -1
    with pytest.raises(DataError, match="sample 2 has its answer at tokens -1 to 2"):
        collect_statistics(tiny("roberta").float(), answers, targets="labels")
    # Nothing is said of labels that nobody looks at.
    collect_statistics(tiny("bert").float(), classes)
