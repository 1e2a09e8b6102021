"""One view of a projection, whether it is an nn.Linear or GPT-2's transposed Conv1D."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fastprune.errors import FastpruneError, NumericalError, UnsupportedModelError
from fastprune.structure.empty import BiasOnly
from fastprune.structure.site import Site

Projection = nn.Linear | Conv1D


def as_projection(module: nn.Module, path: str) -> Projection:
    """Check that the module at ``path`` is a plain floating-point projection.

    Raises:
        UnsupportedModelError: it is anything else, such as a quantised or adapted layer.
    """
    if isinstance(module, Projection) and module.weight.is_floating_point():
        return module
    raise UnsupportedModelError(
        f"{path} is a {type(module).__name__}, not a plain Linear or Conv1D; "
        "load the model unquantised and merge its adapters before pruning"
    )


def weight_view(projection: Projection | BiasOnly) -> torch.Tensor:
    """The weight as [outputs, inputs], sharing storage with the live parameter."""
    if isinstance(projection, BiasOnly):
        return projection.weight.detach()[:, :0]
    weight = projection.weight.detach()
    return weight.T if isinstance(projection, Conv1D) else weight


def _live_projection(model: nn.Module, site: Site) -> Projection | BiasOnly:
    module = model.get_submodule(site.name)
    return module if isinstance(module, BiasOnly) else as_projection(module, site.name)


def get_projection(model: nn.Module, site: Site) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The output projection of ``site``: weight [outputs, columns] and bias [outputs] or None.

    Both are detached views of the live parameters; write through :func:`set_projection` only. A
    sublayer that lost all its units has no columns left, but may have a bias.
    """
    projection = _live_projection(model, site)
    bias = projection.bias
    return weight_view(projection), None if bias is None else bias.detach()


def set_projection(
    model: nn.Module, site: Site, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> None:
    """Overwrite the output projection of ``site`` in place, in the parameters' dtype and device.

    Args:
        weight: [outputs, columns].
        bias: [outputs]; None keeps the present bias. A projection without a bias cannot be given
            one, because the model's own class would not rebuild it on reload.

    Raises:
        NumericalError: a value is not finite, also after rounding to the parameters' dtype.
        FastpruneError: wrong shapes, or a bias for a projection that has none.
    """
    projection = _live_projection(model, site)
    target = weight_view(projection)
    updates = [(target, weight)]
    if bias is not None:
        if projection.bias is None:
            raise FastpruneError(
                f"{site.name} has no bias to set; solve for the weight alone (get_projection "
                "returns None as its bias)"
            )
        updates.append((projection.bias.detach(), bias))
    for old, new in updates:
        if old.shape != new.shape:
            raise FastpruneError(
                f"{site.name} takes shape {tuple(old.shape)}, got {tuple(new.shape)}; "
                "recompute the projection for this model's sites"
            )
        if not torch.isfinite(new.to(old.dtype)).all():
            raise NumericalError(
                f"new values for {site.name} are not finite in {old.dtype}; "
                "raise the damping or keep the untuned values"
            )
    for old, new in updates:
        old.copy_(new)
