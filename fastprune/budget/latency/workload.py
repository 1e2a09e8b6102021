"""What a latency is the latency of: the forward passes that are timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.images import image_tokens
from fastprune.data.tokens import position_limit
from fastprune.device import device_of
from fastprune.errors import FastpruneError
from fastprune.structure.inputs import image_shape


@dataclass(frozen=True)
class Workload:
    """Forward passes to time, without gradients and without a cache of keys and values.

    Attributes:
        batch: samples per pass.
        length: tokens per sample, all valid; images have the size of the model's configuration.
        dtype: ``bfloat16`` or ``float16`` runs under autocast, ``float32`` in the weights' type.
        compiled: whether models go through ``torch.compile`` first.
    """

    batch: int = 32
    length: int = 128
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "length"):
            if getattr(self, name) < 1:
                raise FastpruneError(f"{name} of a latency measurement must be 1 or more")

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.batch} x {self.length} tokens, {kind}{', compiled' * self.compiled}"

    def inputs(self, model: Any) -> dict[str, Tensor]:
        """Random inputs of this size for ``model``, on its device.

        Raises:
            FastpruneError: more tokens than the model takes.
        """
        config, device = model.config, device_of(model)
        generator = torch.Generator().manual_seed(0)
        if takes_images(model):
            shape = (self.batch, *image_shape(config))
            return {"pixel_values": torch.randn(shape, generator=generator).to(device, model.dtype)}
        limit = position_limit(config)
        if limit is not None and self.length > limit:
            raise FastpruneError(
                f"latency cannot be measured at {self.length} tokens: the model takes {limit}; "
                f"use a length of {limit} or less"
            )
        text = config.get_text_config()
        ids = torch.randint(text.vocab_size, (self.batch, self.length), generator=generator)
        if text.pad_token_id is not None:
            # A random pad token would move RoBERTa's positions and a decoder's last token.
            ids[ids == text.pad_token_id] = (text.pad_token_id + 1) % text.vocab_size
        return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}

    def tokens(self, model: Any) -> int:
        """Tokens per sample as ``model`` sees them: of an image its patches, where known."""
        if not takes_images(model):
            return self.length
        return image_tokens(self.inputs(model)["pixel_values"][0], model.config) or self.length


def takes_images(model: nn.Module) -> bool:
    """Whether a model reads pixels instead of tokens."""
    return getattr(model, "main_input_name", "input_ids") == "pixel_values"
