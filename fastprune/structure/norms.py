"""What a norm does besides scaling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fastprune.errors import UnsupportedModelError


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis.

    Attributes:
        eps: added to the variance.
        centered: whether means are taken off: layer norm does, RMS norm does not.
    """

    eps: float
    centered: bool


def norm_of(model: nn.Module, path: str) -> Norm:
    """What the norm at ``path`` does.

    Raises:
        UnsupportedModelError: it is neither a layer norm nor an RMS norm, or has no weight that
            could take up gates.
    """
    module = model.get_submodule(path)
    if getattr(module, "weight", None) is None:
        raise UnsupportedModelError(
            f"{path} has no weight that could take up gates, so hidden dimensions cannot be gated; "
            "leave them out"
        )
    if isinstance(module, nn.LayerNorm):
        return Norm(module.eps, centered=True)
    eps = getattr(module, "variance_epsilon", None)
    if "RMSNorm" in type(module).__name__ and isinstance(eps, float):
        return Norm(eps, centered=False)
    raise UnsupportedModelError(
        f"{path} is a {type(module).__name__}, neither a layer norm nor an RMS norm, so hidden "
        "dimensions cannot be gated; leave them out"
    )
