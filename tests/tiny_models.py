"""Tiny, randomly initialised models of every supported family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

_TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
_IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "image_size": 8,
    "patch_size": 4,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "eos_token_id": None, "bos_token_id": None}
_OPT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 37,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
    "eos_token_id": None,
    "bos_token_id": None,
}
_GPT2 = {
    "vocab_size": 60,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 37,
    "n_positions": 64,
    "eos_token_id": None,
    "bos_token_id": None,
}
_DISTIL = {
    "vocab_size": 60,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 37,
    "max_position_embeddings": 64,
}

FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "bert": (hf.BertForSequenceClassification, hf.BertConfig, _TEXT),
    "roberta": (hf.RobertaForQuestionAnswering, hf.RobertaConfig, _TEXT),
    "xlm-roberta": (hf.XLMRobertaModel, hf.XLMRobertaConfig, _TEXT),
    "electra": (
        hf.ElectraForSequenceClassification,
        hf.ElectraConfig,
        {**_TEXT, "embedding_size": 16},
    ),
    "distilbert": (hf.DistilBertForSequenceClassification, hf.DistilBertConfig, _DISTIL),
    "vit": (hf.ViTForImageClassification, hf.ViTConfig, _IMAGE),
    "deit": (hf.DeiTForImageClassification, hf.DeiTConfig, _IMAGE),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config, _GPT2),
    "opt": (hf.OPTForCausalLM, hf.OPTConfig, _OPT),
    "opt-norm-last": (hf.OPTForCausalLM, hf.OPTConfig, {**_OPT, "do_layer_norm_before": False}),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, _GROUPED),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig, {**_GROUPED, "sliding_window": 5}),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, _GROUPED),
}
WITH_STREAM = tuple(family for family in FAMILIES if family not in ("xlm-roberta", "vit", "deit"))
"""Whose hidden dimensions can be removed: a bare encoder puts them out, and images have none."""
DECODERS = ("gpt2", "opt", "opt-norm-last", "llama", "mistral", "qwen2")


def tiny(name: str, *, attention: str = "sdpa", seed: int = 0, **overrides: Any) -> Any:
    """A tiny float64 model in eval mode, with weights large enough for every unit to matter."""
    model_class, config_class, arguments = FAMILIES[name]
    if not getattr(model_class, "_supports_sdpa", True):  # ELECTRA in transformers 4
        attention = "eager"
    config = config_class(**{**arguments, **overrides}, attn_implementation=attention)
    model = model_class(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return model


def random_masks(sites: Any, seed: int = 0, keep: float = 0.6) -> dict[str, torch.Tensor]:
    """A random mask for every site that keeps at least one unit and drops at least one."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for site in sites:
        count = min(max(1, round(keep * site.units)), site.units - 1)
        masks[site.name] = torch.zeros(site.units)
        masks[site.name][torch.randperm(site.units, generator=generator)[:count]] = 1
    return masks
