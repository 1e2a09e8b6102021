"""Declarations: where a family of models can be pruned, as data instead of graph tracing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastprune.errors import UnsupportedModelError
from fastprune.structure.empty import NoHeads


@dataclass(frozen=True)
class Sublayer:
    """Projections into and out of one sublayer; all paths start at the Transformer layer."""

    inputs: tuple[str, ...]
    """Projections whose outputs are cut into units: (q, k, v), (gate, up), (up,) or one fused."""
    output: str
    """The output projection, whose input columns are cut into the same units."""
    residual: str
    """A module whose first positional input is the residual stream the output is added to."""
    parts: int = 1
    """Equal parts, side by side, in the output of each of `inputs`: 3 for a fused q|k|v."""


@dataclass(frozen=True)
class Attention(Sublayer):
    """A self-attention sublayer. Attribute names are those of the module at `module`."""

    module: str = ""
    """The module that computes attention; replaced as a whole when it loses every head."""
    head_width: str = "head_dim"
    """Attribute holding the width of one head."""
    head_counts: tuple[str, ...] = ()
    """Attributes holding the number of query heads."""
    total_widths: tuple[str, ...] = ()
    """Attributes holding query heads times head width (the hidden size in a dense model)."""
    scaling: str = "scaling"
    """Attribute holding what logits are multiplied by. A module without it goes by the head width,
    which then stays as it is when heads lose dimensions."""
    rotary: bool = False
    """Whether positions rotate queries and keys, and so pairs of their dimensions together."""

    @property
    def fused(self) -> bool:
        """Whether one projection makes queries, keys and values."""
        return len(self.inputs) == 1


@dataclass(frozen=True)
class Declaration:
    """One architecture under one naming of its modules."""

    layers: str
    """Path of the list of Transformer layers, starting at the base model."""
    attention: Attention
    ffn: Sublayer
    filters_config: str = ""
    """Config attribute that sizes every FFN, for stock configs of uniformly pruned models."""
    activation_config: str = ""
    """Config attribute that names the function between the two projections of an FFN."""
    heads_config: bool = False
    """Whether a stock config can express fewer heads (``head_dim`` apart from hidden size)."""
    when: Callable[[Any], bool] = field(default=lambda config: True)
    """Whether the declaration applies to a config; for families with several layouts."""


_registry: dict[str, tuple[Declaration, ...]] = {}


def declare(model_type: str, *variants: Declaration) -> None:
    """Teach fastprune an architecture.

    Args:
        model_type: ``model.config.model_type`` of the models described.
        variants: one declaration per module naming (say, one per transformers major version);
            the first whose ``when`` accepts the config and whose paths all exist is used.

    Declaring a type again replaces what was known about it. ``fastprune inspect MODEL`` or
    :func:`fastprune.compaction.prove` then shows on a live model whether the declaration is right.
    """
    if not variants:
        raise ValueError("declare() needs at least one Declaration")
    _registry[model_type] = variants


def declared_types() -> list[str]:
    """Model types fastprune can prune."""
    return sorted(_registry)


@dataclass(frozen=True)
class Anatomy:
    """A declaration bound to a live model."""

    declaration: Declaration
    blocks: tuple[str, ...]
    """Paths of the Transformer layers, starting at the model."""


def anatomy(model: nn.Module) -> Anatomy:
    """Find the declaration that fits ``model`` and its layers.

    Raises:
        UnsupportedModelError: no declaration for the model's type, or none fits its modules.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type not in _registry:
        raise UnsupportedModelError(
            f"models of type {model_type or type(model).__name__!r} are not declared; known types "
            f"are {', '.join(declared_types())}; describe yours with "
            "fastprune.structure.declare(model_type, Declaration(...))"
        )
    prefix = _base_prefix(model)
    for declaration in _registry[model_type]:
        if not declaration.when(config):
            continue
        blocks = _blocks(model, prefix + declaration.layers)
        if blocks and all(_fits(model.get_submodule(block), declaration) for block in blocks):
            return Anatomy(declaration, blocks)
    raise UnsupportedModelError(
        f"no declaration of {model_type!r} fits this {type(model).__name__} (looked for "
        f"{', '.join(sorted({d.layers for d in _registry[model_type]}))}); describe its layout "
        "with fastprune.structure.declare(model_type, Declaration(...))"
    )


def _base_prefix(model: nn.Module) -> str:
    base = getattr(model, "base_model", model)
    path = next((name for name, module in model.named_modules() if module is base), "")
    return f"{path}." if path else ""


def _blocks(model: nn.Module, path: str) -> tuple[str, ...]:
    layers = find_module(model, path)
    return () if layers is None else tuple(f"{path}.{name}" for name, _ in layers.named_children())


def _fits(block: nn.Module, declaration: Declaration) -> bool:
    attention, ffn = declaration.attention, declaration.ffn
    paths = [attention.module, attention.output, *ffn.inputs, ffn.output]
    if not isinstance(find_module(block, attention.module), NoHeads):
        paths += attention.inputs
        paths.append(attention.residual)
    return all(find_module(block, path) is not None for path in (*paths, ffn.residual))


def find_module(root: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None."""
    module: Any = root
    for name in path.split("."):
        module = getattr(module, name, None)
        if not isinstance(module, nn.Module):
            return None
    return module
