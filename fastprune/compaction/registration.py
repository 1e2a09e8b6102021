"""How ``from_pretrained`` rebuilds a pruned checkpoint.

Transformers lets a registered quantizer reshape the model between building it and loading its
weights. That is the one extension point that works through every ``Auto`` class, so the widths
travel in ``config.quantization_config`` under the method name ``fastprune``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from fastprune.checks import is_whole
from fastprune.compaction.pruned_config import METHOD
from fastprune.compaction.surgery import resize_
from fastprune.errors import CheckpointError, FastpruneError
from fastprune.merging.reduction import reduce_
from fastprune.structure.heads import HeadWidths, all_head_widths
from fastprune.structure.ragged import Ragged
from fastprune.structure.sites import layer_units
from fastprune.structure.stream import stream_width

_ALIGNMENT = 64
"""Of torch's CPU allocator, in bytes."""


@register_quantizer(METHOD)
class PrunedLoader(HfQuantizer):
    """Shrinks the freshly built dense skeleton to the widths of the checkpoint."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        description = self.quantization_config.to_dict()
        units: dict[str, Any] = description["units"]
        for kind, dense in layer_units(model).items():
            saved = units.get(kind)
            if not _within(saved, dense):
                raise CheckpointError(
                    f"config.json promises {kind} units {saved} but the architecture has {dense} "
                    "in its layers; restore config.json or save the model again"
                )
        hidden = description.get("hidden")
        if hidden is not None and not _within([hidden], [stream_width(model) or 0], 1):
            raise CheckpointError(
                f"config.json promises {hidden} hidden dimensions but the architecture has "
                f"{stream_width(model)}; restore config.json or save the model again"
            )
        widths = _head_widths(model, units, description.get("head_widths"))
        resize_(model, units, widths, hidden)
        if "tokens" in description:
            try:
                reduce_(model, description["tokens"])
            except (FastpruneError, TypeError) as error:
                raise CheckpointError(
                    f"config.json promises fewer tokens than the architecture can have ({error}); "
                    "restore config.json or save the model again"
                ) from error
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Leave an ordinary model: only the description in its config stays."""
        for module in model.modules():
            if isinstance(module, Ragged):
                module.restore()
        align_(model)
        model.is_quantized = False
        for name in ("hf_quantizer", "quantization_method"):
            if hasattr(model, name):
                delattr(model, name)
        for module in model.modules():
            config = getattr(module, "config", None)
            for name in ("_is_quantized", "_pre_quantization_dtype"):
                if name in getattr(config, "__dict__", {}):
                    delattr(config, name)
        return model

    def is_serializable(self, safe_serialization: bool | None = None) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


@torch.no_grad()
def align_(model: nn.Module) -> None:
    """Move tensors off the memory-mapped file, to where torch would have put them.

    A mapped tensor starts wherever the file has it. Matrix products on unaligned memory sum in
    another order, so without this a reloaded model differs from the saved one in the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def _head_widths(model: Any, units: dict[str, Any], saved: Any) -> list[HeadWidths] | None:
    """The dimensions of heads that a checkpoint promises, if they can be.

    Raises:
        CheckpointError: other layers or heads than there are, or wider ones.
    """
    if saved is None:
        return None
    try:
        widths = [
            HeadWidths(tuple(qk), tuple(v)) for qk, v in zip(saved["qk"], saved["v"], strict=True)
        ]
        fit = all(
            _within(list(left.qk), dense.qk[:heads]) and _within(list(left.v), dense.v[:heads], 1)
            for left, dense, heads in zip(
                widths, all_head_widths(model), units["attention"], strict=True
            )
        )
    except (KeyError, TypeError, ValueError):
        fit = False
    if not fit:
        raise CheckpointError(
            "config.json promises head widths that do not fit the heads of the architecture; "
            "restore config.json or save the model again"
        )
    return widths


def _within(saved: Any, most: Sequence[int], least: int = 0) -> bool:
    """Whether ``saved`` lists a possible number for every entry of ``most``."""
    return (
        isinstance(saved, list)
        and len(saved) == len(most)
        and all(is_whole(n) and least <= n <= m for n, m in zip(saved, most, strict=True))
    )
