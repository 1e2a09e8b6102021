"""Saving and reloading pruned models as ordinary Hugging Face directories."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from fastprune.atomic import atomic_directory
from fastprune.compaction.directories import REPORT_NAME
from fastprune.compaction.pruned_config import describe_, describe_tokens_
from fastprune.compaction.registration import align_
from fastprune.compaction.surgery import resize_
from fastprune.compaction.uniform import layout, skeleton, uniform_config
from fastprune.errors import CheckpointError, UnsupportedModelError
from fastprune.merging.reduction import schedule_of
from fastprune.structure.declaration import anatomy
from fastprune.structure.heads import all_head_widths
from fastprune.structure.sites import layer_units
from fastprune.structure.stream import stream_width


def save_pretrained(
    model: PreTrainedModel,
    directory: str | os.PathLike[str],
    tokenizer: Any = None,
    *,
    report: dict[str, Any] | None = None,
    overwrite: bool = False,
    uniform: bool = False,
    max_shard_size: str | int = "5GB",
) -> None:
    """Write ``model`` as a Hugging Face directory (safetensors) that describes its own widths.

    After ``import fastprune`` the directory loads through ``AutoModelFor….from_pretrained``, and
    through :func:`load_pretrained`. The directory appears whole or not at all.

    Args:
        tokenizer: tokenizer or processor saved alongside.
        report: JSON-serialisable; written to ``fastprune_report.json``.
        overwrite: replace an existing checkpoint.
        uniform: write a stock config that loads without fastprune; needs equal widths.
        max_shard_size: as in transformers.

    Raises:
        CheckpointError: the target cannot be written, or the model could not be rebuilt from
            what would be written.
    """
    config = uniform_config(model) if uniform else _describing_config(model)
    report_text = None if report is None else json.dumps(report, indent=2) + "\n"
    with atomic_directory(directory, overwrite=overwrite) as staging:
        model.save_pretrained(staging, max_shard_size=max_shard_size)
        config.architectures = [type(model).__name__]
        config.dtype = model.dtype
        config.save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        if report_text is not None:
            (staging / REPORT_NAME).write_text(report_text, encoding="utf-8")


def load_pretrained(directory: str | os.PathLike[str], **kwargs: Any) -> PreTrainedModel:
    """Load a directory written by :func:`save_pretrained`, or any dense checkpoint, in eval mode.

    The model class is the one the checkpoint names; the weights keep their dtype. Unlike plain
    ``from_pretrained``, every weight must be in the checkpoint: none is ever initialised.

    Args:
        directory: a local directory, or the id of a model on the hub.
        kwargs: passed on to ``from_pretrained`` (``dtype``, ``device_map``,
            ``attn_implementation`` …).

    Raises:
        CheckpointError: files are missing, truncated, or do not fit the model.
    """
    path = Path(directory) if os.path.isdir(directory) else os.fspath(directory)
    model_class = _model_class(path)
    kwargs = {"dtype": "auto", **kwargs, "output_loading_info": True}
    kwargs["ignore_mismatched_sizes"] = False
    try:
        model, info = model_class.from_pretrained(path, **kwargs)
    except (
        AttributeError,
        ImportError,
        OSError,
        SafetensorError,
        RuntimeError,
        TypeError,
        ValueError,
        KeyError,
    ) as error:
        raise CheckpointError(
            f"cannot load {path}: {_first_line(error)}; copy or save the checkpoint again"
        ) from error
    missing = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if missing:
        raise CheckpointError(
            f"the weights in {path} lack {sorted(missing)[0]!r} ({len(missing)} in all) that "
            f"{type(model).__name__} needs; copy or save the checkpoint again"
        )
    _refuse_surplus_layers(model, info["unexpected_keys"], path)
    align_(model)
    return model


def _refuse_surplus_layers(model: PreTrainedModel, unexpected: Iterable[str], path: object) -> None:
    """Weights of layers that the config does not build mean that the two do not belong together."""
    try:
        parent = anatomy(model).blocks[0].rpartition(".")[0] + "."
    except UnsupportedModelError:
        return
    surplus = sorted(key for key in unexpected if key.startswith(parent))
    if surplus:
        raise CheckpointError(
            f"the weights in {path} have {surplus[0]!r} ({len(surplus)} in all) that its config "
            "does not build; copy or save the checkpoint again"
        )


def _describing_config(model: PreTrainedModel) -> PretrainedConfig:
    """The model's config, with widths exactly if the plain config would build other ones."""
    config = copy.deepcopy(model.config)
    describe_(config, None)
    units, widths, hidden = _sizes(model)
    rebuilt = skeleton(type(model), config)
    if _sizes(rebuilt) != (units, widths, hidden):
        few = None if stream_width(rebuilt) == hidden else hidden
        resize_(rebuilt, units, hidden=few)
        inner = None if all_head_widths(rebuilt) == widths else widths
        resize_(rebuilt, units, inner)
        describe_(config, units, inner, few)
    if layout(rebuilt) != layout(model):
        raise CheckpointError(
            f"the layers of this {type(model).__name__} cannot be rebuilt from its config; "
            "merge adapters and undo other structural changes before saving"
        )
    tokens = schedule_of(model)
    if tokens is not None:
        describe_tokens_(config, tokens, units)
    return config


def _sizes(model: PreTrainedModel) -> tuple[Any, ...]:
    return layer_units(model), all_head_widths(model), stream_width(model)


def _model_class(path: Path | str) -> Any:
    """The class that the checkpoint's config names; any other would drop its head in silence."""
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # A mistyped path is taken for a hub id, and the error is one of the network.
        hub = "" if os.path.exists(path) else "there is no such directory, and as a hub id: "
        raise CheckpointError(
            f"cannot read the config of {path} ({hub}{_first_line(error)}); name a directory that "
            "holds a model, or a model id on the hub"
        ) from error
    if not config.architectures:
        return AutoModel
    name = str(config.architectures[0])
    model_class = getattr(transformers, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise CheckpointError(
            f"{path} holds a {name}, which this transformers does not have; load it yourself and "
            "pass the model"
        )
    return model_class


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
