"""Physical removal of masked units, with other widths in every layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastprune.compaction.pruned_config import describe_
from fastprune.errors import UnsupportedModelError
from fastprune.structure.declaration import Anatomy, Attention, Declaration, Sublayer, anatomy
from fastprune.structure.empty import BiasOnly, NoColumns, NoHeads
from fastprune.structure.masking import check_masks
from fastprune.structure.projection import Projection, as_projection
from fastprune.structure.site import Site
from fastprune.structure.sites import layer_units, sites_of

Model = TypeVar("Model", bound=nn.Module)
Replacements = dict[int, nn.Parameter]


def compact(model: Model, masks: Mapping[str, torch.Tensor]) -> Model:
    """A physically smaller copy of ``model`` without the units whose mask is zero.

    Args:
        masks: site name to float or bool [units], nonzero = kept; sites not named keep all units.
            Mask values only choose: nothing is scaled by them.

    The original is untouched. dtype, device, ``requires_grad``, training flags and tied weights
    carry over. Removed weights are never copied, so the peak is the original plus the result.
    The copy's config describes its widths, so that plain ``save_pretrained`` works on it, too.

    Raises:
        UnsupportedModelError: no declaration fits, or a prunable weight is shared.
        FastpruneError: masks that do not fit the model.
    """
    found = anatomy(model)
    kept = _kept_units(model, found, masks)
    cuts = _cut(model, found.declaration, kept)
    # deepcopy takes the shortened parameters from the memo instead of copying the long ones.
    small = copy.deepcopy(model, dict(cuts))
    # transformers 4 keeps the static cache of the last generate(), sized for the original heads.
    small.__dict__.pop("_cache", None)
    _refit(small, found)
    if cuts:
        describe_(getattr(small, "config", None), layer_units(small))
    return small


def shrink_(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Remove the units whose mask is zero from ``model`` itself; see :func:`compact`."""
    found = anatomy(model)
    if _shorten_(model, found, _kept_units(model, found, masks)):
        describe_(getattr(model, "config", None), layer_units(model))


def refit_(model: nn.Module) -> None:
    """Make head counts and config agree with the weights of a model that others have pruned."""
    _refit(model, anatomy(model))
    describe_(getattr(model, "config", None), layer_units(model))


def resize_(model: nn.Module, units: Mapping[Any, list[int]]) -> None:
    """Shrink ``model`` in place to ``units[kind][layer]`` units, keeping the first ones.

    For skeletons whose weights are yet to be loaded; works on the meta device.
    """
    found = anatomy(model)
    kept = [
        (site, torch.arange(units[site.kind][site.layer]))
        for site in sites_of(model, found)
        if units[site.kind][site.layer] != site.units
    ]
    _shorten_(model, found, kept)


def _kept_units(
    model: nn.Module, found: Anatomy, masks: Mapping[str, torch.Tensor]
) -> list[tuple[Site, torch.Tensor]]:
    return [
        (site, mask.detach().to(torch.bool).nonzero().flatten())
        for site, mask in check_masks(sites_of(model, found), masks)
    ]


def _shorten_(model: nn.Module, found: Anatomy, kept: Iterable[tuple[Site, torch.Tensor]]) -> bool:
    """Put shortened parameters into the place of the long ones; whether there were any."""
    cuts = _cut(model, found.declaration, kept)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in cuts:
                module.register_parameter(name, cuts[id(parameter)])
    _refit(model, found)
    return bool(cuts)


def _cut(
    model: nn.Module, declaration: Declaration, kept: Iterable[tuple[Site, torch.Tensor]]
) -> Replacements:
    """Shortened parameters by the id of the parameter each one replaces."""
    cuts: Replacements = {}
    for site, units in kept:
        if len(units) == site.units:
            continue
        sublayer: Sublayer = declaration.ffn if site.kind == "ffn" else declaration.attention
        output = as_projection(model.get_submodule(site.name), site.name)
        _shorten(cuts, output.weight, _expand(units, site.group), _axis(output, "inputs"))
        for path in sublayer.inputs:
            name = f"{site.block}.{path}"
            projection = as_projection(model.get_submodule(name), name)
            axis = _axis(projection, "outputs")
            part = projection.weight.shape[axis] // sublayer.parts
            rows = _expand(units, part // site.units)
            rows = torch.cat([rows + i * part for i in range(sublayer.parts)])
            _shorten(cuts, projection.weight, rows, axis)
            if projection.bias is not None:
                _shorten(cuts, projection.bias, rows, 0)
    _refuse_shared(model, cuts)
    return cuts


def _axis(projection: Projection, side: str) -> int:
    return int((side == "inputs") != isinstance(projection, Conv1D))


def _expand(units: torch.Tensor, group: int) -> torch.Tensor:
    """Indices of the columns of the given units, ``group`` side by side each."""
    return (units[:, None] * group + torch.arange(group, device=units.device)).flatten()


def _shorten(cuts: Replacements, parameter: torch.Tensor, keep: torch.Tensor, axis: int) -> None:
    short = parameter.detach().index_select(axis, keep.to(parameter.device))
    cuts[id(parameter)] = nn.Parameter(short, requires_grad=parameter.requires_grad)


def _refuse_shared(model: nn.Module, cuts: Replacements) -> None:
    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in cuts:
            if id(parameter) in seen:
                raise UnsupportedModelError(
                    f"{name} is shared with another module, so its units cannot be removed from "
                    "one of them; untie the weight or leave its sites unmasked"
                )
            seen.add(id(parameter))


def _refit(model: nn.Module, found: Anatomy) -> None:
    """Make sizes and head counts agree with the parameters; replace what lost everything."""
    for layer, path in enumerate(found.blocks):
        block = model.get_submodule(path)
        for sublayer in (found.declaration.attention, found.declaration.ffn):
            output = block.get_submodule(sublayer.output)
            if isinstance(output, BiasOnly):
                continue
            projection = as_projection(output, f"{path}.{sublayer.output}")
            columns = projection.weight.shape[_axis(projection, "inputs")]
            if not columns:
                _empty(block, layer, sublayer, projection)
                continue
            for name in (*sublayer.inputs, sublayer.output):
                _refit_projection(block.get_submodule(name))
            if isinstance(sublayer, Attention):
                _refit_attention(block.get_submodule(sublayer.module), sublayer, columns)


def _refit_projection(projection: nn.Module) -> None:
    if isinstance(projection, Conv1D):
        projection.nx, projection.nf = projection.weight.shape
    elif isinstance(projection, nn.Linear):
        projection.out_features, projection.in_features = projection.weight.shape


def _refit_attention(module: Any, attention: Attention, columns: int) -> None:
    for name in attention.head_counts:
        setattr(module, name, columns // getattr(module, attention.head_width))
    for name in attention.total_widths:
        setattr(module, name, columns)


def _empty(block: nn.Module, layer: int, sublayer: Sublayer, output: Projection) -> None:
    """Leave only the output bias of a sublayer."""
    outputs = output.weight.shape[_axis(output, "outputs")]
    bias_only = BiasOnly(outputs, output.bias, output.weight.detach())
    bias_only.train(output.training)
    if not isinstance(sublayer, Attention):
        for path in sublayer.inputs:
            block.set_submodule(path, NoColumns())
        block.set_submodule(sublayer.output, bias_only)
        return
    module = block.get_submodule(sublayer.module)
    if sublayer.output.startswith(f"{sublayer.module}."):
        stub = NoHeads(layer, sublayer.output.removeprefix(f"{sublayer.module}."), bias_only)
    else:
        stub = NoHeads(layer)
        block.set_submodule(sublayer.output, bias_only)
    block.set_submodule(sublayer.module, stub.train(module.training))
