"""Runs a function in several processes that torch.distributed connects over gloo."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

PATIENCE = 120
"""Seconds after which processes count as hanging."""


def run_ranks(
    size: int, folder: Path, function: Callable[..., Any], *arguments: Any, ends: int | None = None
) -> list[Any]:
    """What ``function(*arguments)`` returns in each of ``size`` processes, by rank.

    Args:
        ends: the exit code of a process that is meant to end early; its result is None.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A server that has imported everything once: its children are ready at once.
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["fastprune", "ranks"])
    found = [folder / f"{rank}.pt" for rank in range(size)]
    processes = [
        context.Process(
            target=_enter, args=(rank, size, port, str(path), function, arguments), daemon=True
        )
        for rank, path in enumerate(found)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, f"these hang: {codes}"
    assert set(codes) <= {0, ends}, codes
    return [torch.load(path, weights_only=False) if path.exists() else None for path in found]


def _enter(rank: int, size: int, port: int, path: str, function: Any, arguments: Any) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.save(function(*arguments), path)
