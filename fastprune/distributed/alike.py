"""Whether all processes have been given the same, before they rely on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fastprune.distributed.group import Group, current_group
from fastprune.errors import FastpruneError


def check_alike(group: Group, given: Mapping[str, object]) -> None:
    """Refuse processes that would not do the same.

    Args:
        group: the processes.
        given: by name, plain values that each of them was given.

    Raises:
        FastpruneError: a value is not that of the first process.
    """
    expected = group.first(lambda: given)
    for name, value in given.items():
        if value != expected[name]:
            raise FastpruneError(
                f"process {group.rank} was not given the same {name} as process 0: give all of "
                "them the same, in the same order; fastprune divides the samples itself"
            )


def check_alone(command: str) -> None:
    """Refuse processes that cannot share the work of a command.

    Raises:
        FastpruneError: torchrun, or another launcher, has started more than one.
    """
    if current_group().size > 1:
        raise FastpruneError(
            f"processes do not share the work of fastprune {command}; start it without torchrun"
        )


def check_devices(group: Group, device: torch.device) -> None:
    """Refuse processes that cannot add up what they have: on other kinds of device, or on one GPU.

    Args:
        group: the processes.
        device: of this process's model.

    Raises:
        FastpruneError: two processes have the same GPU, or some have one and others none.
    """
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    gpus = group.gather(gpu)
    if gpus.count(None) not in (0, len(gpus)):
        raise FastpruneError(
            f"process {gpus.index(None)} works on a CPU and others on GPUs; give all the same "
            "--device, and no machine more processes than GPUs"
        )
    first = gpus.index(gpu)
    if gpu is not None and first != group.rank:
        raise FastpruneError(
            f"processes {first} and {group.rank} work on the same GPU; start one process per GPU "
            "(--nproc-per-node) and leave --device at auto"
        )
