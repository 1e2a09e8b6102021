"""Joining the processes that torchrun, or another launcher, has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from fastprune.distributed.group import ALONE, Group, current_group, joined
from fastprune.distributed.processes import Processes
from fastprune.errors import FastpruneError

# How long processes wait for the last one to start, and for each other's part of a sum: before one,
# they have all said that they are there.
_APART = timedelta(minutes=10)


@contextmanager
def data_parallel() -> Iterator[Group]:
    """Within the block, fastprune shares the work on a model among all processes.

    Calibration and tuning are data-parallel: each process takes its share of the samples, sums are
    over all of them, and every process gets the same result, to the last bit. Every process has to
    run the whole block, with the same model, data and settings.

    The processes are those of torch's default process group, where there is one; otherwise those
    that torchrun, or a launcher that sets the same variables, has started, and the group is made
    here. A process that was started alone works alone. Where there are GPUs, a process takes the
    one of its number on its machine.

    >>> with fastprune.data_parallel() as group:
    ...     result = fastprune.prune(model, data, "macs=0.5")
    ...     result.save_pretrained("smaller")  # written by the first process alone

    Yields:
        The group: ``rank`` and ``size`` say which process this is, and of how many.

    Raises:
        FastpruneError: the processes cannot find each other; or, in all of them, what one of them
            has raised.
    """
    if current_group().size > 1:
        yield current_group()
        return
    launched = "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    ours = launched and not dist.is_initialized()
    if ours:
        _start()
    try:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            yield ALONE
            return
        group = Processes()
        with _parting(group), joined(group):
            yield group
    finally:
        if ours:
            dist.destroy_process_group()


@contextmanager
def _parting(group: Processes) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        group.leave(error)
        raise
    group.leave(None)


def _start() -> None:
    """Make the default process group.

    Raises:
        FastpruneError: a variable is missing or wrong, or the others do not answer.
    """
    gpus = torch.cuda.device_count()
    try:
        if gpus:
            # "cuda" without a number is this one from now on.
            number = os.environ.get("LOCAL_RANK") or os.environ["RANK"]
            torch.cuda.set_device(int(number) % gpus)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_APART)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise FastpruneError(
            f"the processes of this run cannot find each other ({reason}); start them with torchrun"
        ) from error
