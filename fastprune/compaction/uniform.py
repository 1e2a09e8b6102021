"""Stock configs for uniformly pruned models, which then load without fastprune."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from fastprune.compaction.pruned_config import describe_
from fastprune.errors import CheckpointError
from fastprune.merging.reduction import refuse_reduced
from fastprune.structure.declaration import anatomy
from fastprune.structure.site import SiteKind
from fastprune.structure.sites import layer_units


def uniform_kinds(model: nn.Module) -> tuple[SiteKind, ...]:
    """Site kinds whose counts the family's stock config can express, if equal in all layers.

    FFN widths always have a config field; head counts only where the head width does not follow
    from the hidden size (LLaMA, Mistral, Qwen2).
    """
    declaration = anatomy(model).declaration
    kinds: tuple[SiteKind, ...] = ("ffn",) if declaration.filters_config else ()
    return ("attention", *kinds) if declaration.heads_config else kinds


def uniform_config(model: PreTrainedModel) -> PretrainedConfig:
    """A stock config that builds exactly the layers of ``model``, with no fastprune in it.

    Raises:
        CheckpointError: layers differ in width, a sublayer is gone, or the family's config has
            no field for the pruned kind.
        FastpruneError: its tokens are reduced.
    """
    found = anatomy(model)
    refuse_reduced(model, "no stock config can say so; save with uniform=False")
    config = copy.deepcopy(model.config)
    describe_(config, None)
    dense = layer_units(skeleton(type(model), config))
    for kind, counts in layer_units(model).items():
        if counts == dense[kind]:
            continue
        if kind not in uniform_kinds(model):
            raise CheckpointError(
                f"the config of {config.model_type!r} cannot express fewer {kind} units; "
                "save with uniform=False or leave that kind unpruned"
            )
        if len(set(counts)) != 1 or not counts[0]:
            raise CheckpointError(
                f"uniform=True needs equal, nonzero {kind} units in all layers, got {counts}; "
                "save with uniform=False or prune uniformly"
            )
        if kind == "ffn":
            setattr(config, found.declaration.filters_config, counts[0])
        else:
            attention: Any = model.get_submodule(
                f"{found.blocks[0]}.{found.declaration.heads.module}"
            )
            config.num_key_value_heads = counts[0]
            config.num_attention_heads = counts[0] * attention.num_key_value_groups
            config.head_dim = getattr(attention, found.declaration.heads.head_width)
    _validate(config)
    if layout(skeleton(type(model), config)) != layout(model):
        raise CheckpointError(
            f"a stock {type(config).__name__} does not rebuild these layers; "
            "save with uniform=False"
        )
    return config


def skeleton(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """The model a config describes, without memory for weights."""
    with torch.device("meta"):
        return model_class(copy.deepcopy(config))


def _validate(config: PretrainedConfig) -> None:
    """Configs of transformers 5 check themselves when saved and loaded; do so before saving."""
    try:
        getattr(config, "validate", lambda: None)()
    except Exception as error:  # the validators raise no common class
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"a stock {type(config).__name__} refuses these widths ({reason}); keep a number of "
            "heads that divides the hidden size, or save with uniform=False"
        ) from error


def layout(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters in the Transformer layers, by name."""
    blocks = tuple(f"{block}." for block in anatomy(model).blocks)
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name.startswith(blocks)
    }
