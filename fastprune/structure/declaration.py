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
    tables: tuple[str, ...] = ()
    """Parameters with one column per head: relative position biases. Paths from the layer."""
    window: str = ""
    """Attribute of the layer that holds the side of the square of tokens that see each other; all
    tokens do where there is none."""

    @property
    def fused(self) -> bool:
        """Whether one projection makes queries, keys and values."""
        return len(self.inputs) == 1


@dataclass(frozen=True)
class Tokens:
    """How many tokens a layer takes for a sequence of so many at the model's entrance."""

    share: float = 1.0
    """Of the sequence."""
    fixed: int = 0
    """On top, whatever the sequence: learned queries."""


@dataclass(frozen=True)
class Stream:
    """The residual stream outside of the layers; all paths start at the base model."""

    entrances: tuple[str, ...]
    """Modules whose outputs are summed up to what enters the first layer."""
    norms: tuple[str, ...] = ()
    """Norms over it before the first layer."""
    final: str = ""
    """The norm over what leaves the last layer, if there is one."""
    readers: tuple[str, ...] = ()
    """Projections of the base model that read it, where the model has them: no task head does,
    then."""


@dataclass(frozen=True)
class Declaration:
    """One architecture under one naming of its modules."""

    layers: str
    """Path of the list of Transformer layers, starting at the base model. ``*`` is every child:
    of a model in stages, the layers of one stage after the other."""
    attention: Attention | None
    """None where attention is of a kind that stays as it is."""
    ffn: Sublayer
    norms: tuple[str, ...] = ()
    """Norms over the residual stream in a layer, in forward order; paths start at the layer."""
    stream: Stream | None = None
    """Where hidden dimensions can be removed; None where they cannot."""
    tokens: Callable[[Any, int], Tokens] = field(default=lambda config, stage: Tokens())
    """How many tokens the layers of a stage take, by the model's config and the stage's number."""
    sample_axis: int = 0
    """Where the layers' inputs have their samples: 1 behind the tokens."""
    filters_config: str = ""
    """Config attribute that sizes every FFN, for stock configs of uniformly pruned models."""
    activation_config: str = ""
    """Config attribute that names the function between the two projections of an FFN."""
    heads_config: bool = False
    """Whether a stock config can express fewer heads (``head_dim`` apart from hidden size)."""
    when: Callable[[Any], bool] = field(default=lambda config: True)
    """Whether the declaration applies to a config; for families with several layouts."""

    @property
    def heads(self) -> Attention:
        """Attention of layers whose heads can be removed."""
        assert self.attention is not None
        return self.attention


Variant = Declaration | tuple[Declaration, ...]
_registry: dict[str, tuple[Variant, ...]] = {}


def declare(model_type: str, *variants: Variant) -> None:
    """Teach fastprune an architecture.

    Args:
        model_type: ``model.config.model_type`` of the models described.
        variants: one declaration per module naming (say, one per transformers major version);
            the first whose ``when`` accepts the config and whose paths all exist is used. A model
            with several kinds of layers has a tuple of them.

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

    blocks: tuple[str, ...]
    """Paths of the Transformer layers, starting at the model."""
    declarations: tuple[Declaration, ...]
    """Of each of them."""
    stages: tuple[int, ...]
    """The number of the stage that each is in; 0 where there are none."""

    @property
    def stacked(self) -> bool:
        """Whether layers are all alike, and each takes what the one before it hands on."""
        return len(set(map(id, self.declarations))) == 1 and "*" not in self.declarations[0].layers

    @property
    def declaration(self) -> Declaration:
        """The one of all layers of a model whose layers are stacked."""
        return self.declarations[0]


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
    variants = [v if isinstance(v, tuple) else (v,) for v in _registry[model_type]]
    for variant in variants:
        parts = [(part, _blocks(model, part)) for part in variant if part.when(config)]
        if parts and all(_all_fit(model, part, blocks) for part, blocks in parts):
            flat = [(path, part, stage) for part, blocks in parts for path, stage in blocks]
            paths, declarations, stages = zip(*flat, strict=True)
            return Anatomy(paths, declarations, stages)
    looked_for = sorted({part.layers for variant in variants for part in variant})
    raise UnsupportedModelError(
        f"no declaration of {model_type!r} fits this {type(model).__name__} (looked for "
        f"{', '.join(looked_for)}); describe its layout "
        "with fastprune.structure.declare(model_type, Declaration(...))"
    )


def base_prefix(model: nn.Module) -> str:
    """What paths in the base model start with, seen from the model: nothing, or ``"bert."``."""
    base = getattr(model, "base_model", model)
    path = next((name for name, module in model.named_modules() if module is base), "")
    return f"{path}." if path else ""


def _blocks(model: nn.Module, declaration: Declaration) -> list[tuple[str, int]]:
    """Paths of the layers, and the stage of each."""
    before, star, after = (base_prefix(model) + declaration.layers).partition("*")
    if not star:
        return [(path, 0) for path in _children(model, before)]
    stages = [f"{path}{after}" for path in _children(model, before.rstrip("."))]
    return [(path, stage) for stage, of in enumerate(stages) for path in _children(model, of)]


def _children(model: nn.Module, path: str) -> list[str]:
    parent = find_module(model, path)
    return [] if parent is None else [f"{path}.{name}" for name, _ in parent.named_children()]


def _all_fit(model: nn.Module, part: Declaration, blocks: list[tuple[str, int]]) -> bool:
    return bool(blocks) and all(_fits(model.get_submodule(path), part) for path, _ in blocks)


def _fits(block: nn.Module, declaration: Declaration) -> bool:
    attention, ffn = declaration.attention, declaration.ffn
    paths = [*ffn.inputs, ffn.output, ffn.residual]
    if attention is not None:
        paths += [attention.module, attention.output]
        if not isinstance(find_module(block, attention.module), NoHeads):
            paths += [*attention.inputs, attention.residual]
    return all(find_module(block, path) is not None for path in paths)


def find_module(root: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None."""
    module: Any = root
    for name in path.split("."):
        module = getattr(module, name, None)
        if not isinstance(module, nn.Module):
            return None
    return module
