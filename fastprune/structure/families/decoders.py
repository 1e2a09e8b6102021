"""Decoders: GPT-2, OPT, and LLaMA and its kin (grouped-query attention, gated FFN)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastprune.structure.declaration import Attention, Declaration, Stream, Sublayer, declare

GPT2 = Declaration(
    layers="h",
    attention=Attention(
        module="attn",
        inputs=("attn.c_attn",),
        output="attn.c_proj",
        residual="ln_1",
        parts=3,
        head_counts=("num_heads",),
        total_widths=("embed_dim", "split_size"),
    ),
    ffn=Sublayer(inputs=("mlp.c_fc",), output="mlp.c_proj", residual="ln_2"),
    norms=("ln_1", "ln_2"),
    stream=Stream(entrances=("wte", "wpe"), final="ln_f"),
    filters_config="n_inner",
    activation_config="activation_function",
)


def _norm_first(config: Any) -> bool:
    return bool(config.do_layer_norm_before)


OPT = Declaration(
    layers="decoder.layers",
    attention=Attention(
        module="self_attn",
        inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.out_proj",
        residual="self_attn_layer_norm",
        head_counts=("num_heads",),
        total_widths=("embed_dim",),
    ),
    ffn=Sublayer(inputs=("fc1",), output="fc2", residual="final_layer_norm"),
    norms=("self_attn_layer_norm", "final_layer_norm"),
    stream=Stream(
        entrances=("decoder.embed_tokens", "decoder.embed_positions"),
        final="decoder.final_layer_norm",
    ),
    filters_config="ffn_dim",
    activation_config="activation_function",
    when=_norm_first,
)

OPT_NORM_LAST = replace(
    OPT,
    attention=replace(OPT.heads, residual="self_attn.q_proj"),
    ffn=replace(OPT.ffn, residual="fc1"),
    when=lambda config: not _norm_first(config),
)

LLAMA = Declaration(
    layers="layers",
    attention=Attention(
        module="self_attn",
        inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.o_proj",
        residual="input_layernorm",
        rotary=True,
    ),
    ffn=Sublayer(
        inputs=("mlp.gate_proj", "mlp.up_proj"),
        output="mlp.down_proj",
        residual="post_attention_layernorm",
    ),
    norms=("input_layernorm", "post_attention_layernorm"),
    stream=Stream(entrances=("embed_tokens",), final="norm"),
    filters_config="intermediate_size",
    heads_config=True,
)

declare("gpt2", GPT2)
declare("opt", OPT, OPT_NORM_LAST)
for _model_type in ("llama", "mistral", "qwen2"):
    declare(_model_type, LLAMA)
