"""Images to ``pixel_values``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastprune.data.table import Table
from fastprune.errors import DataError


def pixel_values(table: Table, ids: Sequence[int], processor: Any) -> list[dict[str, torch.Tensor]]:
    """``pixel_values`` float32 ``[channels, height, width]`` of the rows ``ids``.

    They are taken as they are, or made from a column ``image`` by an image processor.

    Raises:
        DataError: there is neither column, no processor, or images differ in shape.
    """
    if "pixel_values" in table.names:
        images = table.column("pixel_values", ids)
    elif "image" not in table.names:
        raise DataError(
            f"there is no column 'image' or 'pixel_values'; the columns are "
            f"{', '.join(map(repr, table.names))}"
        )
    elif processor is None:
        raise DataError("images need the model's image processor; pass it as the tokenizer")
    else:
        images = processor(table.column("image", ids), return_tensors="pt")["pixel_values"]
    tensors = [torch.as_tensor(image, dtype=torch.float32) for image in images]
    for row, tensor in zip(ids, tensors, strict=True):
        if tensor.shape != tensors[0].shape or tensor.ndim != 3:
            raise DataError(
                f"row {row} has an image of shape {list(tensor.shape)}, row {ids[0]} of "
                f"{list(tensors[0].shape)}; give [channels, height, width] of one size"
            )
    return [{"pixel_values": tensor} for tensor in tensors]


def image_tokens(image: torch.Tensor, config: Any) -> int:
    """Patches and special tokens a vision transformer makes of an image; 0 if unknown."""
    config = getattr(config, "backbone_config", config)
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int):
        return 0
    _, height, width = image.shape
    # A distillation token joins the class token in DeiT; Swin averages patches instead.
    special = {"deit": 2, "swin": 0}.get(getattr(config, "model_type", ""), 1)
    return (height // patch) * (width // patch) + special
