"""Running one block of a model again, from the start or from a point already reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    The modules before the projection are replaced by those that stand in where a sublayer lost all
    its units: they take what the originals take, and hand on nothing.

    Args:
        model: whose site it is.
        declaration: of its architecture.
        site: where the forward pass is to go on.
        x: the input of its projection, as a probe saw it.
    """
    projection = model.get_submodule(site.name)
    with ExitStack() as stack:
        if site.kind == "ffn":
            for path in declaration.ffn.inputs:
                module = model.get_submodule(f"{site.block}.{path}")
                stack.enter_context(_forward_replaced(module, NoColumns().forward))
        else:
            path = declaration.attention.module
            inside = declaration.attention.output.startswith(f"{path}.")
            inner = declaration.attention.output.removeprefix(f"{path}.") if inside else ""
            stand_in = NoHeads(site.layer, inner, projection if inside else None)
            module = model.get_submodule(f"{site.block}.{path}")
            stack.enter_context(_forward_replaced(module, stand_in.forward))
        hook = projection.register_forward_pre_hook(lambda _, args: (x, *args[1:]))
        stack.callback(hook.remove)
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
