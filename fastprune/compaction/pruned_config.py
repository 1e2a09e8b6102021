"""The description of a pruned model that travels in its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from fastprune.errors import CheckpointError

METHOD = "fastprune"
_VERSION = 1


@register_quantization_config(METHOD)
class PrunedConfig(QuantizationConfigMixin):
    """What is left in every layer, as found in ``config.json``.

    Attributes:
        units: heads and filters per layer, by site kind.
        tokens: how many enter each layer; None where they are not reduced.
    """

    def __init__(
        self,
        units: dict[str, list[int]],
        tokens: list[int] | None = None,
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
        self.tokens = tokens

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
        fields = {"quant_method": METHOD, "version": self.version, "units": self.units}
        return fields if self.tokens is None else {**fields, "tokens": self.tokens}


def describe_(config: Any, units: Mapping[Any, list[int]] | None) -> None:
    """Write the widths of a pruned model into its Hugging Face config, or remove them (None).

    What the config says about tokens stays where widths are written, and goes where they go.
    """
    if not isinstance(config, PretrainedConfig):
        return
    before = getattr(config, "quantization_config", None)
    if units is not None:
        tokens = before.tokens if isinstance(before, PrunedConfig) else None
        config.quantization_config = PrunedConfig(dict(units), tokens)
    elif isinstance(before, PrunedConfig):
        del config.quantization_config


def describe_tokens_(config: Any, tokens: Sequence[int], units: Mapping[Any, list[int]]) -> None:
    """Write into a Hugging Face config how many tokens enter each layer.

    Args:
        config: of the model; those of others than Hugging Face are left alone.
        tokens: per layer.
        units: per layer, by kind, where the config does not tell them yet.
    """
    if not isinstance(config, PretrainedConfig):
        return
    if not isinstance(getattr(config, "quantization_config", None), PrunedConfig):
        describe_(config, units)
    config.quantization_config.tokens = list(tokens)
