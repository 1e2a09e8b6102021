"""Loading what a run starts from: the model, its tokenizer, and the samples."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer

from fastprune.budget.latency import LatencyTable
from fastprune.compaction import load_pretrained
from fastprune.data import Samples, load_samples, task_of
from fastprune.data.sources import Split
from fastprune.data.tasks import IMAGE_TASKS
from fastprune.device import resolve_device
from fastprune.errors import (
    DataError,
    FastpruneError,
    NumericalError,
    UnsupportedModelError,
)
from fastprune.merging.reduction import refuse_reduced
from fastprune.settings import Settings
from fastprune.spp.saved import SearchedPath
from fastprune.structure import GRANULARITIES


@dataclass(frozen=True)
class Reader:
    """Reads data the way a model needs them.

    Attributes:
        model: for its task, labels and vocabulary.
        tokenizer: or image processor; None where data are tokenised already.
        max_length: longest sample in tokens; None for the task's default.
        text_columns: None for the customary names.
        label_column: None for the customary names.
        progress: show progress bars.
    """

    model: nn.Module
    tokenizer: Any = None
    max_length: int | None = None
    text_columns: Sequence[str] | None = None
    label_column: str | None = None
    progress: bool = False

    def calibration(self, source: Any, settings: Settings) -> Samples:
        """Draw the calibration samples; a method that trains takes all there are by default."""
        if settings.selection.trains:
            return self.training(source, settings.samples, settings.seed)
        labels = settings.targets == "labels" and any(settings.needs.values())
        if not settings.parity:
            return self._read(
                source,
                "train",
                labels,
                limit=settings.limit,
                at_most=settings.samples is None,
                seed=settings.seed,
            )
        everything = self._read(source, "train", labels)
        # The original draws with replacement, so it may ask for more than there is.
        draw = np.random.RandomState(settings.seed).choice(len(everything), settings.limit)
        return everything.select(draw.tolist())

    def training(self, source: Any, limit: int | None, seed: int) -> Samples:
        """Labelled samples to train on: all there are, or ``limit`` of them."""
        return self._read(source, "train", labels=True, limit=limit, at_most=False, seed=seed)

    def held_out(self, source: Any) -> Samples:
        """All samples of an evaluation source."""
        return self._read(source, "eval", labels=True)

    def _read(self, source: Any, split: Split, labels: bool, **limits: Any) -> Samples:
        return load_samples(
            source,
            self.tokenizer,
            model_config=getattr(self.model, "config", None),
            task=task_of(self.model),
            split=split,
            text_columns=self.text_columns,
            label_column=self.label_column,
            max_length=self.max_length,
            require_labels=labels,
            progress=self.progress,
            **limits,
        )


def load_model(
    model: nn.Module | str | os.PathLike[str], device: str | torch.device = "auto"
) -> nn.Module:
    """A model ready to work on, in evaluation mode where it is loaded from a path.

    A live model stays where it is unless a device is named; then it is moved there and stays.

    Raises:
        FastpruneError: a live model that puts out tuples.
    """
    if isinstance(model, nn.Module):
        if getattr(getattr(model, "config", None), "return_dict", True) is False:
            raise FastpruneError("the model puts out tuples; set model.config.return_dict = True")
        return model if device == "auto" else model.to(resolve_device(device))
    target = resolve_device(device)
    loaded: nn.Module = load_pretrained(model)
    return loaded.to(target)


def computable(model: nn.Module) -> nn.Module:
    """The model itself, or a float32 copy where weights have another type.

    Tuning looks at small differences of large outputs, which half types round away;
    :func:`restore_dtypes` undoes this for the pruned model.
    """
    if all(p.dtype == torch.float32 for p in model.parameters()):
        return model
    return copy.deepcopy(model).float()


def restore_dtypes(pruned: nn.Module, given: nn.Module) -> None:
    """Cast the parameters and buffers of ``pruned`` to the types they have in ``given``.

    Raises:
        NumericalError: a value that the smaller type cannot hold.
    """
    before = given.state_dict()
    for name, tensor in pruned.state_dict(keep_vars=True).items():
        old = before[name]
        # What has not changed comes back to the last bit, also from float64.
        same = old.shape == tensor.shape and torch.equal(old.to(tensor), tensor)
        tensor.data = old.clone() if same else tensor.data.to(old.dtype)
        if not torch.isfinite(tensor).all():
            raise NumericalError(
                f"the tuned {name!r} overflows {old.dtype}; use bfloat16 or float32 weights"
            )


def load_tokenizer(path: str | os.PathLike[str], model: nn.Module) -> Any:
    """The tokenizer, or for vision models the image processor, saved beside a model.

    Raises:
        DataError: there is none.
    """
    images = task_of(model) in IMAGE_TASKS
    if not images and os.path.isdir(path) and not _has_vocabulary(Path(path)):
        # transformers would make up a tokenizer that knows no words.
        raise DataError(
            f"{path} holds no tokenizer (tokenizer.json or a vocabulary); save the model's there"
        )
    loader = AutoImageProcessor if images else AutoTokenizer
    try:
        return loader.from_pretrained(path)
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        what = "image processor" if images else "tokenizer"
        raise DataError(
            f"no {what} can be loaded from {path} ({reason}); save the model's {what} there"
        ) from error


def load_table(
    table: LatencyTable | str | os.PathLike[str] | None, model: nn.Module
) -> LatencyTable | None:
    """The latency table of a run, where one is given.

    Raises:
        LatencyTableError: it cannot be read, or is of another model.
    """
    if table is None:
        return None
    loaded = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    loaded.check_fit(model)
    return loaded


def load_path(
    path: SearchedPath | str | os.PathLike[str] | None, model: nn.Module, granularity: str
) -> SearchedPath | None:
    """The searched path of a run, where one is given.

    Raises:
        CheckpointError: it cannot be read.
        FastpruneError: it is of another model.
    """
    if path is None:
        return None
    loaded = path if isinstance(path, SearchedPath) else SearchedPath.load(path)
    loaded.check_fit(model, GRANULARITIES[granularity](model), granularity)
    return loaded


def _has_vocabulary(directory: Path) -> bool:
    patterns = ("tokenizer.json", "vocab.*", "*.model", "*.bpe", "tokenizer*.tiktoken")
    return any(any(directory.glob(pattern)) for pattern in patterns)


def check_prunable(model: nn.Module, align: int = 1, granularity: str = "heads") -> None:
    """Refuse models that nothing can be taken from, or whose weights no calculation survives.

    Raises:
        UnsupportedModelError: an architecture without declaration, one that is not cut so finely,
            or no units left.
        FastpruneError: a weight with a NaN or an infinity, an alignment wider than any FFN, or
            tokens that are reduced.
    """
    sites = GRANULARITIES[granularity](model)
    refuse_reduced(model, "start from the model with all its tokens: heads and filters go first")
    if not sites:
        raise UnsupportedModelError("no heads or filters are left in this model to prune")
    widest = max((site.units for site in sites if site.kind == "ffn"), default=align)
    if align > widest:
        raise FastpruneError(f"align {align} is wider than any FFN ({widest} filters); use less")
    check_weights(model)


def check_weights(model: nn.Module) -> None:
    """Refuse weights that no calculation survives.

    Raises:
        FastpruneError: a NaN or an infinity, naming the weight.
    """
    for name, parameter in model.named_parameters():
        # One that is not finite shows in the sum, and only then is looked for.
        total = parameter.sum(dtype=torch.float32)
        if not torch.isfinite(total) and not torch.isfinite(parameter.float()).all():
            raise FastpruneError(
                f"weight {name!r} holds NaN, infinite values or some beyond float32; load an "
                "undamaged checkpoint"
            )
