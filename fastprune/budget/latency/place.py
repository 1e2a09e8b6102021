"""Where a latency was measured, and whether that is here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from fastprune.budget.latency.storage import text, whole
from fastprune.device import device_of


@dataclass(frozen=True)
class Place:
    """What latency depends on, besides the model's shape and the workload.

    Attributes:
        device: name of the GPU, or of the processor and the vector instructions torch uses.
        threads: of torch on a CPU; 0 on a GPU.
        weights: type of the model's weights.
        attention: implementation that transformers uses.
        torch: version.
        transformers: version.
    """

    device: str
    threads: int
    weights: str
    attention: str
    torch: str
    transformers: str

    @classmethod
    def of(cls, model: Any) -> Place:
        """The place where ``model`` is now."""
        device = device_of(model)
        return cls(
            device=_device_name(device),
            threads=torch.get_num_threads() if device.type == "cpu" else 0,
            weights=str(next(model.parameters()).dtype).removeprefix("torch."),
            attention=str(getattr(model.config, "_attn_implementation", None)),
            torch=torch.__version__,
            transformers=transformers.__version__,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Place:
        """From plain values, as ``dataclasses.asdict`` gives them."""
        names = [field.name for field in fields(cls) if field.name != "threads"]
        texts = {name: text(values, name) for name in names}
        return cls(threads=whole(values, "threads", 0), **texts)

    def warnings(self, model: nn.Module) -> list[str]:
        """One line that names what differs where ``model`` is; none where nothing does."""
        here = asdict(Place.of(model))
        differences = [
            f"{name} {value}, here {here[name]}"
            for name, value in asdict(self).items()
            if value != here[name]
        ]
        if not differences:
            return []
        return [f"the latency table was measured elsewhere: {'; '.join(differences)}"]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
