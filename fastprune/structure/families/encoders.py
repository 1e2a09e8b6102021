"""Text encoders: BERT and its kin (post-norm, separate q, k and v)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastprune.structure.declaration import Attention, Declaration, Stream, Sublayer, declare

BERT = Declaration(
    layers="encoder.layer",
    attention=Attention(
        module="attention.self",
        inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
        output="attention.output.dense",
        residual="attention.self.query",
        head_width="attention_head_size",
        head_counts=("num_attention_heads",),
        total_widths=("all_head_size",),
    ),
    ffn=Sublayer(
        inputs=("intermediate.dense",), output="output.dense", residual="intermediate.dense"
    ),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    stream=Stream(
        entrances=(
            "embeddings.word_embeddings",
            "embeddings.position_embeddings",
            "embeddings.token_type_embeddings",
        ),
        norms=("embeddings.LayerNorm",),
        readers=("pooler.dense",),
    ),
    filters_config="intermediate_size",
    activation_config="hidden_act",
)

DISTILBERT = Declaration(
    layers="transformer.layer",
    attention=Attention(
        module="attention",
        inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        output="attention.out_lin",
        residual="attention.q_lin",
        head_width="attention_head_size",
        head_counts=("n_heads",),
        total_widths=("dim",),
    ),
    ffn=Sublayer(inputs=("ffn.lin1",), output="ffn.lin2", residual="ffn.lin1"),
    norms=("sa_layer_norm", "output_layer_norm"),
    stream=Stream(
        entrances=("embeddings.word_embeddings", "embeddings.position_embeddings"),
        norms=("embeddings.LayerNorm",),
    ),
    filters_config="hidden_dim",
    activation_config="activation",
)


def _embeds_narrowly(config: Any) -> bool:
    return bool(config.embedding_size != config.hidden_size)


ELECTRA_NARROW = replace(
    BERT, stream=Stream(entrances=("embeddings_project",)), when=_embeds_narrowly
)

for _model_type in ("bert", "roberta", "xlm-roberta"):
    declare(_model_type, BERT)
declare("electra", ELECTRA_NARROW, BERT)
declare("distilbert", DISTILBERT)
