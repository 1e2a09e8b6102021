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

from fastprune.data import Samples


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Of plain values (anything else by its ``str``): 32 hexadecimal digits."""
    return xxh3_128(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint_model(model: nn.Module) -> str:
    """Of a model's class, parameters and buffers: 32 hexadecimal digits."""
    digest = xxh3_128(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
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


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
