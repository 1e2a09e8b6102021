"""Removal of hidden dimensions: the width of the residual stream, in everything that sees it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastprune.compaction.refit import refit_projection
from fastprune.compaction.remains import Replacements, axis, shorten
from fastprune.errors import FastpruneError
from fastprune.structure.declaration import find_module
from fastprune.structure.empty import BiasOnly
from fastprune.structure.projection import as_projection
from fastprune.structure.stream import ResidualStream


def check_hidden(stream: ResidualStream, mask: Tensor) -> Tensor:
    """A mask of hidden dimensions as bool [width] on the CPU.

    Raises:
        FastpruneError: it is no tensor, has another length, is not finite, or keeps nothing.
    """
    if not isinstance(mask, Tensor):
        raise FastpruneError(f"the mask of hidden dimensions is no tensor: {type(mask).__name__}")
    if mask.layout != torch.strided or mask.is_complex():
        raise FastpruneError("the mask of hidden dimensions must be a dense tensor of real numbers")
    if tuple(mask.shape) != (stream.width,):
        raise FastpruneError(
            f"the mask of hidden dimensions has shape {tuple(mask.shape)} but the model has "
            f"{stream.width}; pass one value per dimension"
        )
    if not torch.isfinite(mask).all():
        raise FastpruneError("the mask of hidden dimensions is not finite; use 0 to drop one")
    kept = mask.detach().to("cpu", torch.bool)
    if not kept.any():
        raise FastpruneError("no hidden dimension would be left; keep at least one")
    return kept


def cut_hidden(
    cuts: Replacements, model: nn.Module, stream: ResidualStream, kept: Tensor
) -> frozenset[int]:
    """Add parameters without the hidden dimensions that go to ``cuts``, on top of what is there.

    Args:
        cuts: shortened parameters by the id of the parameter each one replaces.
        model: whose parameters those are.
        stream: of the model.
        kept: bool [width].

    Returns:
        ids of parameters that are allowed to be shared: every module that has them is cut alike.
    """
    done: set[int] = set()

    def short(parameter: Tensor | None, along: int) -> None:
        if parameter is not None and id(parameter) not in done:
            shorten(cuts, parameter, kept, along, further=True)
            done.add(id(parameter))

    for path in (*stream.entrances, *stream.writers):
        module = model.get_submodule(path)
        if isinstance(module, (nn.Linear, Conv1D)):
            short(module.weight, axis(module, "outputs"))
        elif not isinstance(module, BiasOnly):
            short(model.get_parameter(f"{path}.weight"), -1)
        short(getattr(module, "bias", None), 0)
    for path in stream.norms:
        for parameter in model.get_submodule(path).parameters(recurse=False):
            short(parameter, 0)
    for path in stream.readers:
        projection = as_projection(model.get_submodule(path), path)
        short(projection.weight, axis(projection, "inputs"))
    return _alike(model, stream)


def refit_hidden(model: nn.Module, stream: ResidualStream, width: int) -> None:
    """Make sizes agree with parameters whose hidden dimensions have been removed.

    Args:
        model: whose parameters have their new shapes.
        stream: of the model, as it was before.
        width: how many dimensions are left.
    """
    for path in (*stream.entrances, *stream.norms, *stream.writers, *stream.readers):
        module = find_module(model, path)
        if isinstance(module, BiasOnly):
            module.outputs, module.weight = width, module.weight.new_zeros(width, 1)
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = width
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = (width,)
        elif module is not None:
            refit_projection(module)


def _alike(model: nn.Module, stream: ResidualStream) -> frozenset[int]:
    """Parameters that nothing but the modules of the stream has."""
    inside = {*stream.entrances, *stream.norms, *stream.writers, *stream.readers}
    seen: set[int] = set()
    elsewhere: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        (seen if name.rpartition(".")[0] in inside else elsewhere).add(id(parameter))
    return frozenset(seen - elsewhere)
