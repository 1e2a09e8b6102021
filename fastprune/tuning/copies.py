"""One process solves; the others take over its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastprune.distributed import Group
from fastprune.structure import Site, get_projection, set_projection


def copy_projections(model: nn.Module, sites: Sequence[Site], group: Group) -> None:
    """Give every process the output projections of the first one, in place.

    Solving the same sums everywhere would do on machines that are alike. Others may round
    otherwise, and then their models would drift apart.
    """
    if group.size == 1:
        return
    for site in sites:
        weight, bias = get_projection(model, site)
        found = [tensor.contiguous() for tensor in (weight, bias) if tensor is not None]
        group.copy_(*(tensor for tensor in found if tensor.numel()))
        set_projection(model, site, *found)
