"""Running part of a model again: one block, from the start or from a point already reached, or all
that follows the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from fastprune.calibration.trace import BlockCall
from fastprune.structure import Declaration, Site
from fastprune.structure.empty import NoColumns, NoHeads


def run_block(block: nn.Module, hidden: Tensor, call: BlockCall) -> Tensor:
    """Run one block: [samples, tokens, hidden size] to the same."""
    output = block(hidden, *call.args, **call.kwargs)
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def known_input(
    model: nn.Module, declaration: Declaration, site: Site, x: Tensor
) -> Iterator[None]:
    """Within the context, a site's projection gets ``x``, and what computes it costs nothing.

    Args:
        model: whose site it is.
        declaration: of its architecture.
        site: where the forward pass is to go on.
        x: the input of its projection, as a probe saw it.
    """
    projection = model.get_submodule(site.name)
    with _nothing_before(model, declaration, site):
        hook = projection.register_forward_pre_hook(lambda _, args: (x, *args[1:]))
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def known_output(
    model: nn.Module, declaration: Declaration, site: Site, y: Tensor
) -> Iterator[None]:
    """Within the context, a site's projection hands on ``y``; neither it nor its input is computed.

    Args:
        model: whose site it is.
        declaration: of its architecture.
        site: where the forward pass is to go on.
        y: [..., outputs], as many rows as the block has tokens, in their order.
    """
    projection = model.get_submodule(site.name)
    with (
        _nothing_before(model, declaration, site),
        # Some families hand their tokens to an FFN in one row after the other.
        _forward_replaced(projection, lambda x: y.reshape(*x.shape[:-1], y.shape[-1])),
    ):
        yield


@contextmanager
def known_hidden(
    model: nn.Module, blocks: Sequence[str], hidden: Tensor, *, in_tuple: bool
) -> Iterator[None]:
    """Within the context, the model's blocks cost nothing, and ``hidden`` is what leaves the last.

    Args:
        model: whose head is to be run.
        blocks: paths of its Transformer layers.
        hidden: [samples, tokens, hidden size].
        in_tuple: whether the blocks hand on their output in a tuple.
    """
    found = (hidden,) if in_tuple else hidden
    with ExitStack() as stack:
        for path in blocks:
            block = model.get_submodule(path)
            stack.enter_context(_forward_replaced(block, lambda *_, **__: found))
        yield


@contextmanager
def _nothing_before(model: nn.Module, declaration: Declaration, site: Site) -> Iterator[None]:
    """The modules before a projection make room for those of a sublayer that lost all its units.

    These take what the originals take, and hand on nothing.
    """
    with ExitStack() as stack:
        if site.kind == "ffn":
            for path in declaration.ffn.inputs:
                module = model.get_submodule(f"{site.block}.{path}")
                stack.enter_context(_forward_replaced(module, NoColumns().forward))
        else:
            path = declaration.heads.module
            inside = declaration.heads.output.startswith(f"{path}.")
            inner = declaration.heads.output.removeprefix(f"{path}.") if inside else ""
            projection = model.get_submodule(site.name) if inside else None
            stand_in = NoHeads(site.layer, inner, projection)
            module = model.get_submodule(f"{site.block}.{path}")
            stack.enter_context(_forward_replaced(module, stand_in.forward))
        yield


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # some libraries replace it as well
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
