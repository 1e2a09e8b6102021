"""Vision models: ViT, DeiT, Swin and Mask2Former, under the names of transformers 5 and 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastprune.structure.declaration import (
    Attention,
    Declaration,
    Sublayer,
    Tokens,
    Variant,
    declare,
)

VIT = Declaration(
    layers="layers",
    attention=Attention(
        module="attention",
        inputs=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        output="attention.o_proj",
        residual="layernorm_before",
        head_counts=("num_attention_heads",),
    ),
    ffn=Sublayer(inputs=("mlp.fc1",), output="mlp.fc2", residual="layernorm_after"),
    filters_config="intermediate_size",
    activation_config="hidden_act",
)

VIT_V4 = Declaration(
    layers="encoder.layer",
    attention=Attention(
        module="attention.attention",
        inputs=(
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
        ),
        output="attention.output.dense",
        residual="layernorm_before",
        head_width="attention_head_size",
        head_counts=("num_attention_heads",),
        total_widths=("all_head_size",),
    ),
    ffn=Sublayer(inputs=("intermediate.dense",), output="output.dense", residual="layernorm_after"),
    filters_config="intermediate_size",
    activation_config="hidden_act",
)

for _model_type in ("vit", "deit"):
    declare(_model_type, VIT, VIT_V4)


def _halved(config: Any, stage: int) -> Tokens:
    """Each stage of Swin merges squares of four tokens."""
    return Tokens(0.25**stage)


SWIN = Declaration(
    layers="encoder.layers.*.blocks",
    attention=replace(
        VIT.heads,
        tables=("attention.relative_position_bias.relative_position_bias_table",),
        window="window_size",
    ),
    ffn=VIT.ffn,
    tokens=_halved,
)

SWIN_V4 = Declaration(
    layers=SWIN.layers,
    attention=Attention(
        module="attention.self",
        inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
        output="attention.output.dense",
        residual="layernorm_before",
        head_width="attention_head_size",
        head_counts=("num_attention_heads",),
        total_widths=("all_head_size",),
        tables=("attention.self.relative_position_bias_table",),
        window="window_size",
    ),
    ffn=VIT_V4.ffn,
    tokens=_halved,
)

declare("swin", SWIN, SWIN_V4)


def _three_scales(config: Any, stage: int) -> Tokens:
    """The pixel decoder sees the maps of the last three stages side by side."""
    return Tokens(sum(0.25**scale for scale in (1, 2, 3)))


def _queries(config: Any, stage: int) -> Tokens:
    return Tokens(share=0.0, fixed=config.num_queries)


PIXEL_DECODER = Declaration(
    layers="pixel_level_module.decoder.encoder.layers",
    attention=None,  # deformable: every head samples places of its own
    ffn=Sublayer(inputs=("fc1",), output="fc2", residual="fc1"),
    tokens=_three_scales,
)

MASK_DECODER = Declaration(
    layers="transformer_module.decoder.layers",
    attention=None,  # reshapes to the hidden size whatever the number of heads
    ffn=Sublayer(inputs=("fc1",), output="fc2", residual="fc1"),
    tokens=_queries,
    sample_axis=1,
)


def _mask2former(backbone: Declaration, path: str) -> Variant:
    inside = replace(backbone, layers=f"pixel_level_module.encoder.{path}{backbone.layers}")
    return inside, PIXEL_DECODER, MASK_DECODER


declare(
    "mask2former",
    *(_mask2former(swin, path) for swin in (SWIN, SWIN_V4) for path in ("swin.", "")),
)
