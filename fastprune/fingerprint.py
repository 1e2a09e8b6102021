"""Fingerprints: short texts that tell whether a model, samples or settings are the same as before.

Contents count, not names or places: a model that is saved again elsewhere keeps its fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from xxhash import xxh3_128

from fastprune.calibration import Statistics
from fastprune.data import Samples

_NAMES = ("_name_or_path", "transformers_version", "use_cache")
"""What a config holds that no forward pass depends on."""


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Of plain values (anything else by its ``str``): 32 hexadecimal digits."""
    return xxh3_128(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint_model(model: nn.Module) -> str:
    """Of a model's class, config, parameters and buffers: 32 hexadecimal digits."""
    digest = xxh3_128(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    config: Any = getattr(model, "config", None)
    if config is not None:
        described = {k: v for k, v in config.to_dict().items() if k not in _NAMES}
        described["attention"] = getattr(config, "_attn_implementation", None)
        digest.update(fingerprint(described).encode())
    _update(digest, model.state_dict())
    return digest.hexdigest()


def fingerprint_statistics(statistics: Statistics) -> str:
    """Of what was summed up, and of what: 32 hexadecimal digits."""
    moments = statistics.input_moments
    fields = {**vars(statistics), **({} if moments is None else vars(moments))}
    sums = {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}
    plain = {k: v for k, v in fields.items() if k not in sums and k != "input_moments"}
    digest = xxh3_128(fingerprint(plain).encode())
    _update(digest, sums)
    return digest.hexdigest()


def fingerprint_samples(samples: Samples) -> str:
    """Of what a model is given, of the labels and the task: 32 hexadecimal digits."""
    digest = xxh3_128(f"{samples.task} {samples.padding} {samples.ids}".encode())
    for sample in samples.features:
        for name, values in sample.items():
            tensor = torch.as_tensor(values)
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
    if samples.labels is not None:
        digest.update(_bytes(samples.labels))
    return digest.hexdigest()


def _update(digest: xxh3_128, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
