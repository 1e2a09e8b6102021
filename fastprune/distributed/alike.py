"""Whether all processes have been given the same, before they rely on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.data import Samples
from fastprune.distributed.group import Group
from fastprune.errors import FastpruneError

# Values of a tensor that are looked at: another seed, file or training step shows in any of them.
_PROBED = 64


def check_alike(group: Group, model: nn.Module, samples: Samples, choices: object) -> None:
    """Refuse processes that would not do the same.

    Args:
        group: the processes.
        model: to prune; some values of every weight are compared.
        samples: to calibrate with, those of all processes.
        choices: of everything else, with a ``repr`` that tells all of it.

    Raises:
        FastpruneError: the model, the samples or the choices are not those of the first process.
    """
    if group.size == 1:
        return
    found = {
        "model": _digest(model.state_dict()),
        "calibration samples": _digest(samples.ids, samples.labels, *samples.features),
        "settings": _digest(repr(choices)),
    }
    expected = group.first(lambda: found)
    for name, digest in found.items():
        if digest != expected[name]:
            raise FastpruneError(
                f"process {group.rank} was not given the same {name} as process 0: give all of "
                "them the same, in the same order; fastprune divides the samples itself"
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


def _digest(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value):
            digest.update(name.encode())
            _feed(digest, value[name])
    elif isinstance(value, Tensor):
        step = max(1, value.numel() // _PROBED)
        probed = value.detach().flatten()[::step].double().cpu()
        digest.update(repr((tuple(value.shape), value.dtype)).encode())
        digest.update(probed.view(torch.uint8).numpy().tobytes())
    else:
        digest.update(repr(value).encode())
