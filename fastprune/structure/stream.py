"""The residual stream: the hidden dimensions that all layers read and add to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fastprune.errors import UnsupportedModelError
from fastprune.structure.declaration import (
    Anatomy,
    Declaration,
    anatomy,
    base_prefix,
    find_module,
)
from fastprune.structure.empty import BiasOnly
from fastprune.structure.projection import Projection, as_projection, weight_view

_HEADS = (
    "classifier.dense",
    "pre_classifier",
    "qa_outputs",
    "score",
    "lm_head",
    "classifier",
)
"""What reads the stream in models for a task, where nothing of the base model has read it; paths
start at the model."""


@dataclass(frozen=True)
class ResidualStream:
    """All modules of a live model that see its hidden dimensions; paths start at the model.

    Attributes:
        width: hidden dimensions.
        entrances: lookups and projections whose outputs are summed up to it.
        norms: over it, in forward order.
        writers: output projections, whose outputs are added to it.
        readers: projections that read it, or a norm of it.
        tied: whether a reader and an entrance share their weight.
        last_norm: what task heads read; None where they read the stream itself.
    """

    width: int
    entrances: tuple[str, ...]
    norms: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    tied: bool
    last_norm: str | None


def stream_width(model: nn.Module, found: Anatomy | None = None) -> int | None:
    """How many hidden dimensions a model has; None where they cannot be removed."""
    found = anatomy(model) if found is None else found
    part = found.declarations[0]
    if not found.stacked or part.stream is None:
        return None
    return _hands_on(model, f"{found.blocks[0]}.{part.ffn.output}")


def residual_stream(model: nn.Module, found: Anatomy | None = None) -> ResidualStream:
    """Find everything that sees the hidden dimensions of ``model``.

    Raises:
        UnsupportedModelError: nothing is declared, the stream is what the model puts out, or
            something has another width.
    """
    found = anatomy(model) if found is None else found
    width = stream_width(model, found)
    if width is None:
        raise UnsupportedModelError(
            f"the residual stream of {_type(model)!r} is not declared, so its hidden dimensions "
            "stay; leave them out"
        )
    part = found.declarations[0]
    stream, before = part.stream, base_prefix(model)
    assert stream is not None
    inner = [norm for block in found.blocks for norm in _present(model, f"{block}.", part.norms)]
    final = _present(model, before, (stream.final,) if stream.final else ())
    bare = getattr(model, "base_model", model) is model
    readers = _present(model, before, stream.readers) or _heads(model)
    if bare or not readers:
        raise UnsupportedModelError(
            f"the hidden dimensions of a {type(model).__name__} are what it puts out, so they "
            "stay; leave them out, or prune a model with a task head"
        )
    writers = []
    for block in found.blocks:
        for sublayer in (part.heads, part.ffn):
            writers.append(f"{block}.{sublayer.output}")
            readers += _projections(model, f"{block}.", sublayer.inputs)
    entrances = _present(model, before, stream.entrances)
    weights = {id(model.get_parameter(f"{path}.weight")) for path in entrances}
    bound = ResidualStream(
        width=width,
        entrances=tuple(entrances),
        norms=(*_present(model, before, stream.norms), *inner, *final),
        writers=tuple(writers),
        readers=tuple(readers),
        tied=any(id(model.get_parameter(f"{path}.weight")) in weights for path in readers),
        last_norm=_last_norm(part, inner, final),
    )
    _check_widths(model, bound)
    return bound


def _last_norm(part: Declaration, inner: list[str], final: list[str]) -> str | None:
    if final:
        return final[0]
    # A sublayer whose residual is a norm's input has its norm before it, and the next one's after.
    return None if part.ffn.residual in part.norms else inner[-1]


def _type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _heads(model: nn.Module) -> list[str]:
    return _projections(model, "", _HEADS)[:1]


def _present(model: nn.Module, before: str, paths: tuple[str, ...]) -> list[str]:
    """Those of the paths, behind a prefix, where there is a module."""
    full = [f"{before}{path}" for path in paths]
    return [path for path in full if find_module(model, path) is not None]


def _projections(model: nn.Module, before: str, paths: tuple[str, ...]) -> list[str]:
    """Those where there is a projection that has not lost all its rows."""
    present = _present(model, before, paths)
    return [path for path in present if isinstance(model.get_submodule(path), Projection)]


def _check_widths(model: nn.Module, stream: ResidualStream) -> None:
    seen = {path: _hands_on(model, path) for path in (*stream.entrances, *stream.writers)}
    seen |= {path: _normalises(model, path) for path in stream.norms}
    for path in stream.readers:
        seen[path] = weight_view(as_projection(model.get_submodule(path), path)).shape[1]
    for path, width in seen.items():
        if width != stream.width:
            raise UnsupportedModelError(
                f"{path} sees {width} dimensions and not the {stream.width} of the residual "
                "stream, so hidden dimensions cannot be removed; leave them out"
            )


def _normalises(model: nn.Module, path: str) -> int:
    norm = model.get_submodule(path)
    if isinstance(norm, nn.LayerNorm):  # perhaps one without a weight
        return int(norm.normalized_shape[-1])
    return len(model.get_parameter(f"{path}.weight"))


def _hands_on(model: nn.Module, path: str) -> int:
    module = model.get_submodule(path)
    if isinstance(module, BiasOnly):
        return module.outputs
    if isinstance(module, Projection):
        return weight_view(module).shape[0]
    return model.get_parameter(f"{path}.weight").shape[-1]
