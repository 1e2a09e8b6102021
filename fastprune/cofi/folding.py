"""From gates to a smaller model: what is closed goes, what is half open becomes weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastprune.cofi.gating import gated_stream
from fastprune.cofi.values import GateValues
from fastprune.compaction import compact
from fastprune.structure import Site
from fastprune.structure.empty import BiasOnly
from fastprune.structure.projection import Projection, weight_view
from fastprune.structure.stream import ResidualStream

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def compact_gated(model: Model, sites: Sequence[Site], values: GateValues) -> Model:
    """A smaller copy of ``model`` that computes what it does under gates, and needs none.

    Gates of units become part of the columns of output projections, those of sublayers of all their
    weights. Hidden dimensions are gated where they are written: entrances, outputs of sublayers,
    norms. Their gates go there, never to what reads them, because the residual stream passes
    readers by.

    Args:
        model: it is not changed.
        sites: all of its sites.
        values: of its gates; what is 0 goes.

    Raises:
        UnsupportedModelError: hidden dimensions that cannot have gates.
    """
    masks, hidden = values.kept(sites), values.hidden
    if hidden is None:
        small, left = compact(model, masks, sites), values
    else:
        stream, stays = gated_stream(model), hidden != 0
        small = compact(model, masks, sites, hidden=stays)
        left = GateValues(values.units, values.sublayers, hidden[stays])
        _fold_stream(small, stream, sites, hidden[stays])
    for site in sites:
        projection = small.get_submodule(site.name)
        outputs = left.outputs(site.name)
        if isinstance(projection, Projection) and site.name in values.units:
            units = values.units[site.name]
            columns = site.spread(units)[site.spread(masks[site.name].to(units.device))]
            weight_view(projection).mul_(columns.to(projection.weight))
        if outputs is not None:
            _scale_outputs(projection, outputs)
    return small


def _fold_stream(
    small: nn.Module, stream: ResidualStream, sites: Sequence[Site], hidden: Tensor
) -> None:
    """Everything that writes hidden dimensions, but for the output projections of sites."""
    # What reads the last norm with the weight of an entrance has that entrance's gates already.
    spared = stream.last_norm if stream.tied else None
    norms = [small.get_submodule(path) for path in stream.norms if path != spared]
    # Each once, where layers share their norms.
    for parameter in {p for norm in norms for p in norm.parameters(recurse=False)}:
        parameter.mul_(hidden.to(parameter))
    named = {site.name for site in sites}
    for path in stream.entrances:
        _scale_outputs(small.get_submodule(path), hidden)
    for path in stream.writers:
        if path not in named:
            _scale_outputs(small.get_submodule(path), hidden)


def _scale_outputs(module: nn.Module, factors: Tensor) -> None:
    """Multiply what a module hands on by [outputs] or a scalar."""
    if isinstance(module, Projection):
        weight_view(module).mul_(factors.to(module.weight).reshape(-1, 1))
    elif not isinstance(module, BiasOnly):
        module.weight.mul_(factors.to(module.weight))  # type: ignore[operator, arg-type]
    bias = getattr(module, "bias", None)
    if bias is not None:
        bias.mul_(factors.to(bias))
