"""Dummy inputs, built from a config alone."""

from __future__ import annotations

from typing import Any

import torch

from fastprune.errors import UnsupportedModelError


def dummy_inputs(
    model: Any, *, batch: int = 2, length: int = 16, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random inputs for the base model of ``model``, on its device.

    Text: ids [batch, length] and an attention mask that pads the last row at its end.
    Images: pixels [batch, channels, height, width] in the model's dtype.

    Raises:
        UnsupportedModelError: the model takes neither ids nor pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    config, name = model.config, getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values":
        pixels = torch.randn(batch, *image_shape(config), generator=generator)
        return {name: pixels.to(model.device, model.dtype)}
    if name != "input_ids":
        raise UnsupportedModelError(
            f"no dummy inputs for models that take {name!r}; pass inputs of your own"
        )
    # RoBERTa counts positions from the padding index + 1, hence the margin.
    length = max(1, min(length, getattr(config, "max_position_embeddings", length) - 4))
    ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    attention_mask = torch.ones_like(ids)
    attention_mask[-1, length - length // 4 :] = 0
    return {name: ids.to(model.device), "attention_mask": attention_mask.to(model.device)}


def image_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model, or its backbone, is made for."""
    config = getattr(config, "backbone_config", config)
    size = config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return config.num_channels, height, width
