"""Random gates for the tiny models."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import tiny
from torch import Tensor

from fastprune.cofi.layout import GateLayout
from fastprune.cofi.possible import possible_gates
from fastprune.cofi.values import GateValues
from fastprune.structure import find_sites
from fastprune.structure.inputs import dummy_inputs


def gates_of(model: Any) -> tuple[str, ...]:
    """All that it can have."""
    return possible_gates(model, dummy_inputs(model))


def layout(model: Any, *gates: str, kind: Any = "params") -> GateLayout:
    return GateLayout.of(model, gates or gates_of(model), kind, 10.0)


def fractional(count: int, closed: float, generator: torch.Generator) -> Tensor:
    """Between 0.1 and 1, float64 [count]; a share of them 0."""
    open_gates = torch.rand(count, generator=generator) >= closed
    return (0.1 + 0.9 * torch.rand(count, generator=generator).double()) * open_gates


def arbitrary(model: Any, *, hidden: bool, seed: int = 1) -> GateValues:
    """Gates anywhere between closed and open, with what is easily forgotten among them.

    All units of one site are closed though its sublayer is open, and one sublayer is closed though
    units of it are open.
    """
    generator = torch.Generator().manual_seed(seed)
    sites = find_sites(model)
    units = {site.name: fractional(site.units, 0.4, generator) for site in sites}
    units[sites[1].name][:] = 0
    sublayers = {site.name: fractional(1, 0.0, generator)[0] for site in sites}
    sublayers[sites[2].name] = torch.zeros((), dtype=torch.float64)
    width = model.config.hidden_size
    return GateValues(units, sublayers, fractional(width, 0.2, generator) if hidden else None)


def tiny_float(family: str) -> Any:
    """A tiny model in float32, to be trained."""
    return tiny(family).float()
