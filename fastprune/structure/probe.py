"""A site at work: what flows into and out of its projection during a forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastprune.structure.site import Site


class StopForward(Exception):
    """Leaves a forward pass once what it was run for has been seen."""


class SiteProbe:
    """Sees a site's residual stream, the input of its projection and its output.

    A context manager around a forward pass; all it sees is detached. With ``stop`` the pass ends,
    quietly, as soon as the input of the projection is known.
    """

    residual: Tensor
    input: Tensor
    output: Tensor

    def __init__(self, model: nn.Module, site: Site, *, stop: bool = False) -> None:
        self._modules = model.get_submodule(site.residual), model.get_submodule(site.name)
        self._stop = stop

    def __enter__(self) -> SiteProbe:
        residual, projection = self._modules
        self._handles = [
            residual.register_forward_pre_hook(self._see_residual),
            projection.register_forward_pre_hook(self._see_input),
            projection.register_forward_hook(self._see_output),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for handle in self._handles:
            handle.remove()
        return kind is StopForward

    def sublayer_output(self) -> Tensor:
        """What the sublayer adds up to: the projection's output plus the residual stream."""
        return self.output.view_as(self.residual) + self.residual

    def _see_residual(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.residual = args[0].detach()

    def _see_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.input = args[0].detach()
        if self._stop:
            raise StopForward

    def _see_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.output = output.detach()
