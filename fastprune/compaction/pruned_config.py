"""The description of a pruned model that travels in its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from fastprune.errors import CheckpointError
from fastprune.structure.heads import HeadWidths

METHOD = "fastprune"
_VERSION = 1


@register_quantization_config(METHOD)
class PrunedConfig(QuantizationConfigMixin):
    """What is left in every layer, as found in ``config.json``.

    Attributes:
        units: heads and filters per layer, by site kind.
        head_widths: by ``"qk"`` and ``"v"``, the dimensions of every head of every layer; None
            where heads are as wide as the config without us says.
        tokens: how many enter each layer; None where they are not reduced.
        hidden: dimensions of the residual stream; None where they are as many as the config without
            us says.
    """

    def __init__(
        self,
        units: dict[str, list[int]],
        head_widths: dict[str, list[list[int]]] | None = None,
        tokens: list[int] | None = None,
        hidden: int | None = None,
        version: int = _VERSION,
        **unknown: Any,
    ) -> None:
        if version != _VERSION or unknown:
            raise CheckpointError(
                f"the checkpoint describes its widths in version {version} of the format, this "
                f"fastprune reads version {_VERSION}; install the fastprune that wrote it"
            )
        self.quant_method: Any = METHOD
        self.version = version
        self.units = units
        self.head_widths = head_widths
        self.tokens = tokens
        self.hidden = hidden

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        fields = {key: value for key, value in config_dict.items() if key != "quant_method"}
        if "units" not in fields:
            raise CheckpointError(
                "quantization_config in config.json lacks 'units'; save the model again"
            )
        config = cls(**fields)
        return (config, kwargs) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"quant_method": METHOD, "version": self.version}
        fields["units"] = self.units
        for name in ("head_widths", "tokens", "hidden"):
            value = getattr(self, name)
            fields.update({} if value is None else {name: value})
        return fields


def describe_(
    config: Any,
    units: Mapping[Any, list[int]] | None,
    widths: Sequence[HeadWidths] | None = None,
    hidden: int | None = None,
) -> None:
    """Write what is left of a pruned model into its Hugging Face config, or remove it (None).

    Args:
        config: of the model; those of others than Hugging Face are left alone.
        units: per layer, by kind.
        widths: of heads in every layer, where they are not what the dense model has.
        hidden: dimensions, likewise.

    What the config says about tokens stays where widths are written, and goes where they go.
    """
    if not isinstance(config, PretrainedConfig):
        return
    if units is not None:
        told = None
        if widths is not None:
            told = {"qk": [list(w.qk) for w in widths], "v": [list(w.v) for w in widths]}
        before = _description(config)
        tokens = None if before is None else before.tokens
        config.quantization_config = PrunedConfig(dict(units), told, tokens, hidden)
    elif _description(config) is not None:
        del config.quantization_config


def describes_heads(config: Any) -> bool:
    """Whether a config says that heads have lost dimensions."""
    description = _description(config)
    return description is not None and description.head_widths is not None


def _description(config: Any) -> PrunedConfig | None:
    found = getattr(config, "quantization_config", None)
    return found if isinstance(found, PrunedConfig) else None


def describe_tokens_(config: Any, tokens: Sequence[int], units: Mapping[Any, list[int]]) -> None:
    """Write into a Hugging Face config how many tokens enter each layer.

    Args:
        config: of the model; those of others than Hugging Face are left alone.
        tokens: per layer.
        units: per layer, by kind, where the config does not tell them yet.
    """
    if not isinstance(config, PretrainedConfig):
        return
    if _description(config) is None:
        describe_(config, units)
    config.quantization_config.tokens = list(tokens)
