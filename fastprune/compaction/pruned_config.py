"""The description of a pruned model that travels in its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from fastprune.errors import CheckpointError

METHOD = "fastprune"
_VERSION = 1


@register_quantization_config(METHOD)
class PrunedConfig(QuantizationConfigMixin):
    """Units left in every layer, by site kind, as found in ``config.json``."""

    def __init__(
        self, units: dict[str, list[int]], version: int = _VERSION, **unknown: Any
    ) -> None:
        if version != _VERSION or unknown:
            raise CheckpointError(
                f"the checkpoint describes its widths in version {version} of the format, this "
                f"fastprune reads version {_VERSION}; install the fastprune that wrote it"
            )
        self.quant_method: Any = METHOD
        self.version = version
        self.units = units

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
        return {"quant_method": METHOD, "version": self.version, "units": self.units}


def describe_(config: Any, units: Mapping[Any, list[int]] | None) -> None:
    """Write the widths of a pruned model into its Hugging Face config, or remove them (None)."""
    if not isinstance(config, PretrainedConfig):
        return
    if units is not None:
        config.quantization_config = PrunedConfig(dict(units))
    elif isinstance(getattr(config, "quantization_config", None), PrunedConfig):
        del config.quantization_config
