"""Tiny Swin and Mask2Former models, whose layers lie in stages and branches."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from fastprune import Samples


def staged(name: str) -> Any:
    """A float64 model in eval mode, with weights large enough for every unit to matter."""
    model = _swin() if name == "swin" else _mask2former()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    return model.double().eval()


def staged_samples(name: str, count: int = 4, *, dtype: torch.dtype = torch.float32) -> Samples:
    """Random images, with labels for Swin."""
    size, task = (32, "image") if name == "swin" else (64, "segmentation")
    generator = torch.Generator().manual_seed(1)
    features = [
        {"pixel_values": torch.randn(3, size, size, generator=generator).to(dtype)}
        for _ in range(count)
    ]
    labels = torch.arange(count) % 3 if name == "swin" else None
    return Samples(features, labels, list(range(count)), task, image_tokens=(size // 4) ** 2)


def _swin() -> Any:
    config = hf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
        window_size=4, mlp_ratio=1.5, num_labels=3,
    )  # fmt: skip
    return hf.SwinForImageClassification(config)


def _mask2former() -> Any:
    backbone = hf.SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 2, 1], num_heads=[2, 2, 4, 4],
        window_size=4, mlp_ratio=0.5, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = hf.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=24, dim_feedforward=20, encoder_layers=2, decoder_layers=3,
        num_attention_heads=2, num_queries=5, num_labels=4,
    )  # fmt: skip
    return hf.Mask2FormerForUniversalSegmentation(config)
