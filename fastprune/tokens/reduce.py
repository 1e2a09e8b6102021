"""Fewer tokens within a budget: what users call."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn

from fastprune.budget import Budget, parse_budget
from fastprune.compaction.pruned_config import describe_tokens_
from fastprune.data import Samples, load_samples, task_of
from fastprune.device import resolve_dtype
from fastprune.inputs import computable, load_model, load_tokenizer
from fastprune.merging.reduction import reduce_, refuse_reduced, token_counts
from fastprune.settings import Settings
from fastprune.structure import find_sites, layer_units
from fastprune.structure.declaration import anatomy
from fastprune.tokens.schedule import check_share, find_schedule
from fastprune.tokens.scores import IMAGES, score_tokens


def reduce_tokens(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    budget: Any = "macs=0.7",
    *,
    tokenizer: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    progress: bool = False,
) -> nn.Module:
    """A copy of a vision model that merges tokens on their way, block by block.

    How many tokens each block gets follows from what the model loses with each of them
    (:func:`fastprune.tokens.scores.score_tokens`); which tokens are merged is decided image by
    image (:func:`fastprune.merging.matching.merge`). No weight changes. The copy is saved, loaded,
    scored and timed like any other model.

    Args:
        model: ViT or DeiT for image classification, pruned or not, or the path or hub id of one.
        data: images in any form :func:`fastprune.load_samples` reads; 32 are drawn, labels are not
            used.
        budget: in MACs of heads and filters, a share of those with all tokens, or a number.
        tokenizer: the image processor, for data that are not ``pixel_values`` yet; found beside
            ``model`` where that is a path.
        batch_size: images per pass; by default as many as keep the device busy.
        seed: of the draw.
        device: ``"auto"``: a path goes to the GPU where there is one, a model stays where it is;
            a named device moves a live model there.
        dtype: of the passes; ``"auto"`` is float32.
        progress: show a progress bar.

    Raises:
        FastpruneError: anything the user can mend, in one line.
    """
    wanted, passes = parse_budget(budget), resolve_dtype(dtype)
    Settings((wanted,), batch_size=batch_size, seed=seed)  # refuses what no run takes
    loaded = load_model(model, device)
    check_reducible(loaded, wanted)
    if tokenizer is None and not isinstance(model, nn.Module):
        tokenizer = load_tokenizer(model, loaded)
    samples = load_samples(
        data,
        tokenizer,
        model_config=getattr(loaded, "config", None),
        task=task_of(loaded),
        limit=IMAGES,
        at_most=True,
        seed=seed,
        require_labels=False,
        progress=progress,
    )
    schedule = schedule_within(
        loaded,
        samples,
        wanted,
        seed=seed,
        batch_size=batch_size,
        dtype=passes,
        progress=progress,
    )
    return with_schedule_(copy.deepcopy(loaded), schedule)


def check_reducible(model: nn.Module, budget: Budget) -> None:
    """Refuse models and budgets that nothing can be done about, before any data are read.

    Raises:
        UnsupportedModelError: a model whose tokens cannot be reduced.
        FastpruneError: one whose tokens are reduced already.
        BudgetError: a budget of another kind than MACs, or one that cannot be reached.
    """
    refuse_reduced(model, "start from a model with all its tokens")
    check_share(find_sites(model), budget, len(anatomy(model).blocks), token_counts(model))


def schedule_within(
    model: nn.Module, samples: Samples, budget: Budget, **options: Any
) -> list[int]:
    """How many tokens should enter each block of ``model`` under ``budget``.

    Args:
        model: with all its tokens.
        samples: images.
        budget: in MACs.
        options: of :func:`fastprune.tokens.scores.score_tokens`.
    """
    _, special = token_counts(model)
    importance = score_tokens(computable(model), samples, **options)
    return find_schedule(importance, find_sites(model), budget, special)


def with_schedule_(model: nn.Module, schedule: list[int]) -> nn.Module:
    """The model itself, its tokens reduced and its config saying so."""
    reduce_(model, schedule)
    describe_tokens_(getattr(model, "config", None), schedule, layer_units(model))
    return model
