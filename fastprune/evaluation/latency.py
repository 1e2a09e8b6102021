"""Measured latency of models, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastprune.budget.latency.workload import Workload
from fastprune.device import autocast, cache_off, device_of, evaluation_mode, settle_allocator
from fastprune.errors import FastpruneError
from fastprune.progress import progress_bar

_COMPILED_AT_ONCE = 1024
"""Variants of one model's code that torch.compile keeps; beyond its own limit of 8 it would fall
back to uncompiled passes in silence."""


def measure_latency(
    models: Mapping[str, nn.Module],
    *,
    batch: int = 32,
    length: int = 128,
    repeats: int = 10,
    warmup: int = 1,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """Median milliseconds of one forward pass of each model, where it is.

    The models take turns within every round, in alternating order, so that whatever else the
    machine does meets all of them alike, and each runs once untimed before it is timed. On a GPU
    every pass is waited for.

    Args:
        models: by name; all get inputs of the same size, made from their own configurations.
        batch: samples per pass.
        length: tokens per sample, all valid; images have the size of the model's configuration.
        repeats: measured rounds.
        warmup: rounds before them.
        dtype: ``bfloat16`` or ``float16`` runs under autocast, ``float32`` in the weights' type.
        compiled: put the models through ``torch.compile`` first.

    Raises:
        FastpruneError: no repeats, inputs that a model cannot take, or a compiler that fails.
    """
    if repeats < 1 or warmup < 0:
        raise FastpruneError("repeats of a latency measurement must be 1 or more")
    timer = PassTimer(list(models.values()), Workload(batch, length, dtype, compiled))
    rounds = range(-warmup, repeats)
    times = [timer.round() for _ in progress_bar("measure latency", rounds, enabled=progress)]
    medians = 1e3 * np.median(times[warmup:], axis=0)
    return dict(zip(models, medians.tolist(), strict=True))


class PassTimer:
    """Times forward passes of several models in turns."""

    def __init__(self, models: Sequence[nn.Module], workload: Workload) -> None:
        """Args: models: to time, where they are; workload: what each is given."""
        settle_allocator()
        self._models = list(models)
        self._workload = workload
        self._inputs = [workload.inputs(model) for model in models]
        compile_: Callable[[nn.Module], Any] = torch.compile if workload.compiled else _as_it_is
        self._calls = [compile_(model) for model in models]
        self._rounds = 0

    def round(self, after_each: Callable[[], object] = lambda: None) -> NDArray[np.float64]:
        """Seconds of one pass of each model, [models]. The first round warms up, and compiles.

        Args:
            after_each: called after every pass, not timed.

        Raises:
            FastpruneError: the device runs out of memory, or models cannot be compiled.
        """
        times = np.zeros(len(self._models))
        order = range(len(self._models))
        self._rounds += 1
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(*self._models))
            for model in self._models:
                stack.enter_context(cache_off(model))
            stack.enter_context(torch.inference_mode())
            if self._workload.compiled:
                stack.enter_context(_roomy_compiler())
            for i in reversed(order) if self._rounds % 2 else order:
                times[i] = self._time(i)
                after_each()
        return times

    def _time(self, i: int) -> float:
        device = device_of(self._models[i])
        try:
            # The first pass of a turn finds caches, heap and compiled code as another model left
            # them, which makes small models up to a sixth slower; in use, a model follows itself.
            self._run(i, device)
            _synchronize(device)
            start = time.perf_counter()
            self._run(i, device)
            _synchronize(device)
            return time.perf_counter() - start
        except torch.OutOfMemoryError as error:
            raise FastpruneError(
                f"{self._workload} do not fit on {device}; measure latency with a smaller batch"
            ) from error
        except RuntimeError as error:
            if not self._workload.compiled:
                raise
            raise FastpruneError(
                f"torch.compile fails here ({_first_line(error)}); install a C++ compiler, or "
                "measure without compiling"
            ) from error

    def _run(self, i: int, device: torch.device) -> None:
        with autocast(device, self._workload.dtype):
            self._calls[i](**self._inputs[i])


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _roomy_compiler() -> Any:
    return torch._dynamo.config.patch(
        recompile_limit=_COMPILED_AT_ONCE, accumulated_recompile_limit=_COMPILED_AT_ONCE
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
