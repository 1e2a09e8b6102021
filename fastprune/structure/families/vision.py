"""Vision encoders: ViT and DeiT (pre-norm), under the module names of transformers 5 and 4."""

from __future__ import annotations

from fastprune.structure.declaration import Attention, Declaration, Sublayer, declare

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
