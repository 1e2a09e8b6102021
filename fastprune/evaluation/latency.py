"""Measured latency of models, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.tokens import position_limit
from fastprune.device import autocast, device_of, evaluation_mode
from fastprune.errors import FastpruneError
from fastprune.progress import progress_bar


def measure_latency(
    models: Mapping[str, nn.Module],
    *,
    batch: int = 32,
    length: int = 128,
    repeats: int = 20,
    warmup: int = 3,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> dict[str, float]:
    """Median milliseconds of one forward pass of each model, where it is.

    The models take turns within every round, in alternating order, so that whatever else the
    machine does meets all of them alike. On a GPU every pass is waited for.

    Args:
        models: by name; all get inputs of the same size, made from their own configurations.
        batch: samples per pass.
        length: tokens per sample, all valid; images have the size of the model's configuration.
        repeats: measured rounds.
        warmup: rounds before them.
        dtype: ``bfloat16`` or ``float16`` runs under autocast, ``float32`` in the weights' type.

    Raises:
        FastpruneError: no repeats, or inputs that a model cannot take.
    """
    if min(batch, length, repeats) < 1 or warmup < 0:
        raise FastpruneError("batch, length and repeats of a measurement must be 1 or more")
    inputs = {name: _inputs(model, batch, length) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    order = list(models)
    rounds = range(-warmup, repeats)
    with evaluation_mode(*models.values()), torch.inference_mode():
        for number in progress_bar("measure latency", rounds, enabled=progress):
            for name in order if number % 2 else reversed(order):
                elapsed = _time_forward(models[name], inputs[name], dtype)
                if number >= 0:
                    times[name].append(elapsed)
    return {name: 1e3 * median(seconds) for name, seconds in times.items()}


def _time_forward(model: nn.Module, inputs: dict[str, Tensor], dtype: torch.dtype) -> float:
    device = device_of(model)
    _synchronize(device)
    start = time.perf_counter()
    with autocast(device, dtype):
        model(**inputs)
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _inputs(model: Any, batch: int, length: int) -> dict[str, Tensor]:
    config, device = model.config, device_of(model)
    generator = torch.Generator().manual_seed(0)
    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        pixels = torch.randn(batch, config.num_channels, height, width, generator=generator)
        return {"pixel_values": pixels.to(device, model.dtype)}
    limit = position_limit(config)
    if limit is not None and length > limit:
        raise FastpruneError(
            f"latency cannot be measured at {length} tokens: the model takes {limit}; "
            f"use a length of {limit} or less"
        )
    text = config.get_text_config()
    ids = torch.randint(text.vocab_size, (batch, length), generator=generator)
    if text.pad_token_id is not None:
        # A random pad token would move RoBERTa's positions and a decoder's last token.
        ids[ids == text.pad_token_id] = (text.pad_token_id + 1) % text.vocab_size
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
