"""Replaying a model block by block over recorded batches.

Tuning walks through the layers once: each layer is solved with the inputs that the already tuned
earlier layers produce. The arguments the model passes to its blocks besides the hidden states
(attention masks, rotary tables) depend on the batch alone, so they are recorded once and serve
teacher and student.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data.samples import model_inputs
from fastprune.device import autocast, device_of, to_device
from fastprune.structure import Site


@dataclass(frozen=True)
class BlockCall:
    """What a block is called with, apart from the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def same_as(self, other: BlockCall) -> bool:
        """Whether both hold the very same objects."""
        return (
            len(self.args) == len(other.args)
            and self.kwargs.keys() == other.kwargs.keys()
            and all(a is b for a, b in zip(self.args, other.args, strict=True))
            and all(value is other.kwargs[key] for key, value in self.kwargs.items())
        )


@dataclass(frozen=True)
class TapeBatch:
    """One recorded batch.

    Attributes:
        hidden: input of the first block, [samples, tokens, hidden size].
        valid: bool [samples, tokens], False = padding.
        calls: one per block.
    """

    hidden: Tensor
    valid: Tensor
    calls: tuple[BlockCall, ...]


class _Stop(Exception):
    """Leaves a forward pass once what it was run for has been seen."""


@torch.no_grad()
def record(
    model: nn.Module,
    blocks: Sequence[str],
    batches: Iterable[dict[str, Tensor]],
    dtype: torch.dtype,
) -> list[TapeBatch]:
    """Record what the model feeds its blocks, running no further than it must.

    Args:
        model: in evaluation mode.
        blocks: paths of the Transformer layers, in order.
        batches: as :meth:`fastprune.data.Samples.batches` yields them.
        dtype: autocast type of the pass.
    """
    device = device_of(model)
    recorder = _Recorder(model, blocks)
    tape = []
    with recorder:
        for batch in batches:
            inputs = model_inputs(to_device(batch, device))
            inputs.pop("sample_index")
            with autocast(device, dtype):
                hidden, calls = recorder.run(inputs)
            mask = inputs.get("attention_mask")
            if mask is None:
                mask = torch.ones(hidden.shape[:2], device=device)
            tape.append(TapeBatch(hidden, mask.bool(), calls))
    return tape


class _Recorder:
    """Hooks on the blocks of a model that note how they are called."""

    def __init__(self, model: nn.Module, blocks: Sequence[str]) -> None:
        self._model = model
        self._blocks = [model.get_submodule(path) for path in blocks]
        self._stop_early = False
        self._hidden: Tensor | None = None
        self._calls: list[BlockCall] = []

    def __enter__(self) -> None:
        self._handles = [
            block.register_forward_pre_hook(self._note, with_kwargs=True) for block in self._blocks
        ]
        # A cache would grow with every replay.
        config = getattr(self._model, "config", None)
        self._use_cache = getattr(config, "use_cache", None)
        if self._use_cache is not None:
            config.use_cache = False  # type: ignore[union-attr]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self._use_cache is not None:
            self._model.config.use_cache = self._use_cache  # type: ignore[union-attr]

    def run(self, inputs: dict[str, Tensor]) -> tuple[Tensor, tuple[BlockCall, ...]]:
        self._hidden, self._calls = None, []
        try:
            self._model(**inputs)
        except _Stop:
            self._calls *= len(self._blocks)
        # Most models call every block with the same arguments. Once a whole pass has shown it,
        # the first block tells everything.
        self._stop_early = all(call.same_as(self._calls[0]) for call in self._calls)
        assert self._hidden is not None
        return self._hidden, tuple(self._calls)

    def _note(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, call = _split_call(args, kwargs)
        if self._hidden is None:
            self._hidden = hidden
        self._calls.append(call)
        if self._stop_early:
            raise _Stop


def _split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, BlockCall]:
    if args:
        return args[0], BlockCall(args[1:], kwargs)
    rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
    return kwargs["hidden_states"], BlockCall((), rest)


def run_block(block: nn.Module, hidden: Tensor, call: BlockCall) -> Tensor:
    """Run one block: [samples, tokens, hidden size] to the same."""
    output = block(hidden, *call.args, **call.kwargs)
    return output[0] if isinstance(output, tuple) else output


class SiteProbe:
    """Sees a site at work: its residual stream, the input of its projection and its output.

    With ``stop`` the forward pass ends, quietly, as soon as the input of the projection is known.
    """

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
        return kind is _Stop

    def _see_residual(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.residual: Tensor = args[0]

    def _see_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.input: Tensor = args[0]
        if self._stop:
            raise _Stop

    def _see_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.output = output
