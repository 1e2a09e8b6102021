"""Token reduction on a live model: hooks on its blocks, which stay as they are.

A schedule says how many tokens enter each block. After a block, as many tokens are merged as the
next one is to see less, those whose keys in that block are most alike (where it has lost all its
heads: whose hidden states are). From then on, attention weighs tokens by their sizes: the logarithm
of the size is added to the logits, through the attention mask.

Merging between blocks and not, as Bolya et al. do, between attention and FFN, needs to know nothing
of what a block does inside: attention may be computed in any way that takes an additive mask.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.merging.matching import merge
from fastprune.structure.declaration import anatomy, find_module


class TokenReduction:
    """What the hooks of one model share. One forward pass at a time, which is checked; copies are
    independent.

    Attributes:
        schedule: how many tokens enter each block; None = the hooks do nothing.
    """

    def __init__(self, schedule: Sequence[int], special: int, config: Any, masks: tuple[str, ...]):
        """Args: special: leading tokens that stay; config: of the model; masks: implementations of
        attention that take an additive mask."""
        self.schedule: list[int] | None = list(schedule)
        self._special, self._config, self._masks = special, config, masks
        self._sizes: Tensor | None = None
        self._keys: Tensor | None = None
        self._thread = 0

    def __getstate__(self) -> dict[str, Any]:
        """For copies: nothing of a pass that is under way, or that an error has ended."""
        return {**self.__dict__, "_sizes": None, "_keys": None}

    def enter(self, layer: int, hidden: Tensor) -> Tensor | None:
        """What is added to the logits of a block's attention, [samples, 1, 1, tokens], if anything.

        Raises:
            FastpruneError: images of another size than the schedule is for, attention that cannot
                weigh tokens, or another thread's pass in between.
        """
        if self.schedule is None:
            return None
        if not torch.compiler.is_compiling():
            self._check_thread(layer)
        if layer == 0:
            self._sizes = self._keys = None
            if hidden.shape[1] != self.schedule[0]:
                raise FastpruneError(
                    f"the tokens of this model are reduced from {self.schedule[0]}, but these "
                    f"images make {hidden.shape[1]}; give images of the size it was reduced for"
                )
        if self._sizes is None:
            return None
        if self._config._attn_implementation not in self._masks:
            raise FastpruneError(
                f"attention {self._config._attn_implementation!r} cannot weigh merged tokens here; "
                f"load the model with attn_implementation={' or '.join(map(repr, self._masks))}"
            )
        return self._sizes.log().to(hidden.dtype)[:, None, None]

    def _check_thread(self, layer: int) -> None:
        """Tokens of one pass must not be weighed by the sizes of another."""
        thread = threading.get_ident()
        if layer == 0:
            self._thread = thread
        elif self._thread != thread:
            raise FastpruneError(
                "two threads run this model at once, and tokens of one pass are merged at a time; "
                "give every thread a copy (copy.deepcopy), or take turns"
            )

    def see_keys(self, keys: Tensor) -> None:
        """Note the keys of the block that runs: [samples, tokens, width]."""
        self._keys = keys.detach()

    def leave(self, layer: int, hidden: Tensor) -> Tensor:
        """What the next block gets of the output of a block: [samples, tokens, width], both."""
        if self.schedule is None:
            return hidden
        keys, self._keys = self._keys, None
        if layer + 1 == len(self.schedule):
            self._sizes = None  # nothing is kept between passes
            return hidden
        count = self.schedule[layer] - self.schedule[layer + 1]
        if not count:
            return hidden
        if self._sizes is None:
            exact = torch.promote_types(hidden.dtype, torch.float32)
            self._sizes = hidden.new_ones(hidden.shape[:2], dtype=exact)
        features = hidden.detach() if keys is None else keys
        merged, self._sizes = merge(hidden, self._sizes, features, count, self._special)
        return merged


class _BlockHooks:
    """One block's part. Methods of an object are copied with the model, functions are not."""

    def __init__(self, reduction: TokenReduction, layer: int) -> None:
        self.reduction, self._layer = reduction, layer

    def enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        weights = self.reduction.enter(self._layer, args[0])
        if weights is None:
            return None
        if any(mask is not None for mask in args[1:2]):
            raise FastpruneError(
                "masks do not fit tokens that are merged; call the model without masks"
            )
        return (args[0], weights, *args[2:]), kwargs

    def see_keys(self, projection: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.reduction.see_keys(output)

    def leave(self, block: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.reduction.leave(self._layer, output)


def reduce_(model: nn.Module, schedule: Sequence[int]) -> None:
    """Let ``schedule[i]`` tokens enter block ``i`` of ``model`` from now on.

    A schedule that removes none leaves every output as it was, bit for bit.

    Raises:
        UnsupportedModelError: no ViT or DeiT with a classifier.
        FastpruneError: a schedule that does not fit, or tokens that are reduced already.
    """
    refuse_reduced(model, "start from a model with all its tokens")
    tokens, special = token_counts(model)
    found = anatomy(model)
    check_schedule(schedule, len(found.blocks), tokens, special)
    # transformers 4 calls the second argument of a block a head mask. Its eager attention
    # multiplies by it, the fused one adds it to the logits all the same.
    first = inspect.signature(model.get_submodule(found.blocks[0]).forward).parameters
    additive = ("sdpa", "eager") if "attention_mask" in first else ("sdpa",)
    reduction = TokenReduction(schedule, special, model.config, additive)
    for layer, path in enumerate(found.blocks):
        block, hooks = model.get_submodule(path), _BlockHooks(reduction, layer)
        block.register_forward_pre_hook(hooks.enter, with_kwargs=True)
        block.register_forward_hook(hooks.leave)
        keys = find_module(block, found.declaration.heads.inputs[1])
        if keys is not None and min(schedule[layer:]) < schedule[layer]:
            keys.register_forward_hook(hooks.see_keys)


def unreduce_(model: nn.Module) -> None:
    """Let all tokens through again."""
    found = _reduction(model)
    if found is not None:
        found.schedule = None


def schedule_of(model: nn.Module) -> list[int] | None:
    """How many tokens enter each block; None where they are not reduced."""
    found = _reduction(model)
    return None if found is None else found.schedule


def refuse_reduced(model: nn.Module, cure: str) -> None:
    """Refuse a model whose tokens are reduced.

    Raises:
        FastpruneError: with what to do instead.
    """
    if schedule_of(model) is not None:
        raise FastpruneError(f"the tokens of this model are reduced; {cure}")


def token_counts(model: nn.Module) -> tuple[int, int]:
    """How many tokens an image makes, and how many of these are special and lead the others.

    Raises:
        UnsupportedModelError: no ViT or DeiT with a classifier.
    """
    embeddings = getattr(getattr(model, "base_model", None), "embeddings", None)
    patches = getattr(getattr(embeddings, "patch_embeddings", None), "num_patches", None)
    positions = getattr(embeddings, "position_embeddings", None)
    classifies = type(model).__name__.endswith("ForImageClassification")
    if not (classifies and patches and isinstance(positions, Tensor)):
        raise UnsupportedModelError(
            f"tokens of {type(model).__name__} cannot be reduced: that takes an image classifier "
            "whose tokens are patches, ViT or DeiT; leave tokens out"
        )
    tokens = positions.shape[1]
    if tokens <= patches:
        raise UnsupportedModelError(
            f"tokens of {type(model).__name__} cannot be reduced: it has no class token that would "
            "stay; leave tokens out"
        )
    return tokens, tokens - patches


def check_schedule(schedule: Sequence[int], layers: int, tokens: int, special: int) -> None:
    """Refuse a schedule that no model of ``layers`` blocks and ``tokens`` tokens can follow.

    Raises:
        FastpruneError: saying which entry is wrong, and within which bounds it would fit.
    """
    if len(schedule) != layers:
        raise FastpruneError(
            f"the schedule is for {len(schedule)} blocks, but the model has {layers}; give the "
            "number of tokens that enter each block"
        )
    for layer, count in enumerate(schedule):
        before = schedule[layer - 1] if layer else tokens
        least = fewest(before - special) + special if layer else tokens
        if not isinstance(count, int) or not least <= count <= before:
            raise FastpruneError(
                f"{count} tokens cannot enter block {layer}; give a whole number from {least} to "
                f"{before}"
            )


def fewest(patches: int) -> int:
    """What is left, of tokens that are not special, if as many are merged as possible."""
    return max(1, patches // 2)


def _reduction(model: nn.Module) -> TokenReduction | None:
    """What is attached to a model, by its first block."""
    try:
        first = model.get_submodule(anatomy(model).blocks[0])
    except UnsupportedModelError:
        return None
    owners = (getattr(hook, "__self__", None) for hook in first._forward_pre_hooks.values())
    return next((owner.reduction for owner in owners if isinstance(owner, _BlockHooks)), None)
