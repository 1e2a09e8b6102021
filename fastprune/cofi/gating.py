"""Gates on a live model, where units and sublayers that are closed are not computed.

Gates are drawn once for a whole batch, so a unit that is closed is closed for all of it: its rows
and columns are left out of the products of that step. This is exact. A closed unit adds nothing,
and neither its weights nor its gate would get a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fastprune import ops
from fastprune.cofi.values import GateValues
from fastprune.compaction.remains import Remains, find_remains
from fastprune.errors import UnsupportedModelError
from fastprune.structure import Site
from fastprune.structure.declaration import anatomy
from fastprune.structure.heads import sharing_queries
from fastprune.structure.norms import Norm, norm_of
from fastprune.structure.projection import Projection, as_projection
from fastprune.structure.stream import ResidualStream, residual_stream


class Gating:
    """Puts gates on a model, batch after batch."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], *, hidden: bool) -> None:
        """Find what gates act on.

        Args:
            model: to gate.
            sites: all of its sites.
            hidden: whether hidden dimensions are to be gated.

        Raises:
            UnsupportedModelError: hidden dimensions that cannot be.
        """
        self._model, self._sites = model, {site.name: site for site in sites}
        self._found = anatomy(model)
        self._stream = gated_stream(model) if hidden else None
        norms = () if self._stream is None else self._stream.norms
        self._norms = {path: norm_of(model, path) for path in norms}

    @contextmanager
    def on(self, values: GateValues) -> Iterator[dict[str, Tensor]]:
        """Within the block the model is gated by ``values``, which get gradients if they ask.

        Yields:
            what is left: bool [units] by the name of a site.
        """
        kept = values.kept(list(self._sites.values()))
        computed = [(self._sites[name], _one_at_least(mask)) for name, mask in kept.items()]
        with ExitStack() as stack:
            for left in find_remains(self._model, self._found, computed):
                site = self._sites[left.output]
                stack.enter_context(self._sublayer(site, left, values))
            if values.hidden is not None:
                stack.enter_context(self._residual(values.hidden))
            yield kept

    @contextmanager
    def _sublayer(self, site: Site, left: Remains, values: GateValues) -> Iterator[None]:
        """The projections of a sublayer with what is left of their weights."""
        model, indices = self._model, _indices(left.columns)
        with ExitStack() as stack:
            for path, rows in left.rows.items():
                if not rows.all():
                    projection = as_projection(model.get_submodule(path), path)
                    few = _indices(rows.repeat(left.parts))
                    stack.enter_context(_computing(projection, _rows(projection, few)))
            output = as_projection(model.get_submodule(site.name), site.name)
            units = values.units.get(site.name)
            columns = None if units is None else site.spread(units)
            product = _output(output, indices, columns, values.outputs(site.name))
            stack.enter_context(_computing(output, product))
            if left.widths is not None and not left.columns.all():
                stack.enter_context(self._heads(site, len(left.widths.v)))
            yield

    def _heads(self, site: Site, heads: int) -> Any:
        """Let an attention module know how many of its heads there are."""
        declared = self._found.declarations[site.layer].heads
        module = self._model.get_submodule(f"{site.block}.{declared.module}")
        count = heads * sharing_queries(module)
        width = int(getattr(module, declared.head_width))
        told = dict.fromkeys(declared.head_counts, count)
        return _telling(module, told | dict.fromkeys(declared.total_widths, count * width))

    @contextmanager
    def _residual(self, hidden: Tensor) -> Iterator[None]:
        """Hidden dimensions where they enter, and norms over those that are open."""
        assert self._stream is not None
        gone = [path for path in self._stream.writers if path not in self._sites]
        with ExitStack() as stack:
            for path in (*self._stream.entrances, *gone):
                hook = self._model.get_submodule(path).register_forward_hook(
                    lambda module, args, output: output * hidden
                )
                stack.callback(hook.remove)
            for path, norm in self._norms.items():
                module = self._model.get_submodule(path)
                stack.enter_context(_computing(module, _norm(module, norm, hidden)))
            yield


def gated_stream(model: nn.Module) -> ResidualStream:
    """The residual stream of a model whose hidden dimensions can have gates.

    Raises:
        UnsupportedModelError: they cannot be removed, or weights could not take up their gates.
    """
    stream = residual_stream(model)
    for path in stream.norms:
        norm_of(model, path)
    if stream.tied and stream.last_norm is None:
        raise UnsupportedModelError(
            "the head of this model reads the residual stream with the weight of its embeddings, "
            "which would take up gates twice; untie them, or leave hidden dimensions out"
        )
    return stream


def _one_at_least(mask: Tensor) -> Tensor:
    """Attention cannot be without a head; one that is multiplied by 0 does no harm."""
    if mask.any():
        return mask
    first = torch.zeros_like(mask)
    first[0] = True
    return first


def _indices(kept: Tensor) -> Tensor | None:
    """Where ``kept`` is true; None where it is everywhere."""
    return None if kept.all() else kept.nonzero().flatten()


def _weight(projection: Projection) -> Tensor:
    """The live weight as [outputs, inputs]."""
    return projection.weight.T if isinstance(projection, Conv1D) else projection.weight


def _few(x: Tensor, axis: int, indices: Tensor | None) -> Tensor:
    return x if indices is None else x.index_select(axis, indices.to(x.device))


def _rows(projection: Projection, indices: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The product with some of the rows of a projection."""

    def product(x: Tensor) -> Tensor:
        bias = None if projection.bias is None else _few(projection.bias, 0, indices)
        return functional.linear(x, _few(_weight(projection), 0, indices), bias)

    return product


def _output(
    projection: Projection, indices: Tensor | None, columns: Tensor | None, rows: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """The product with an output projection whose weight takes up all gates around it.

    Args:
        projection: the output projection.
        indices: columns that are left.
        columns: what multiplies all of them; None = nothing does.
        rows: what multiplies outputs, likewise.
    """

    def product(x: Tensor) -> Tensor:
        weight = _few(_weight(projection), 1, indices)
        bias: Tensor | None = projection.bias
        if columns is not None:
            weight = weight * _few(columns, 0, indices)
        if rows is not None:
            weight = weight * rows.reshape(-1, 1)
            bias = None if bias is None else bias * rows
        return functional.linear(x, weight, bias)

    return product


def _norm(module: nn.Module, norm: Norm, hidden: Tensor) -> Callable[[Tensor], Tensor]:
    def normalise(x: Tensor) -> Tensor:
        return ops.normalise_kept(
            x,
            module.weight,  # type: ignore[arg-type]
            getattr(module, "bias", None),
            hidden,
            eps=norm.eps,
            centered=norm.centered,
        )

    return normalise


@contextmanager
def _computing(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block a module computes something else; its hooks stay."""
    with _telling(module, {"forward": forward}):
        yield


@contextmanager
def _telling(module: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
    """Within the block a module has other attributes."""
    own = vars(module)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
