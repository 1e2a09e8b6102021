"""Several processes, by torch.distributed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastprune.distributed.group import Group, T
from fastprune.errors import FastpruneError

# One process may score a model for hours while the others wait. A process that ends closes its
# connections, which ends the waiting at once, so that this limit has nothing to detect.
_PATIENCE = timedelta(days=7)


class Processes(Group):
    """All processes of torch's default process group.

    Before anything else is exchanged, every process says whether it is well. One that has failed
    says so in its next exchange, whichever that is, and they all raise what it raised. This and
    whatever lies on the CPU goes through gloo; tensors on a GPU take the default group's backend.
    """

    def __init__(self) -> None:
        """Every process has to make one at the same time."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._talk: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._settled: BaseException | None = None

    def sum_(self, *tensors: Tensor) -> None:
        self._exchange(*(lambda t=t: dist.all_reduce(t, group=self._way(t)) for t in tensors))

    def copy_(self, *tensors: Tensor) -> None:
        self._exchange(*(lambda t=t: dist.broadcast(t, 0, group=self._way(t)) for t in tensors))

    def first(self, function: Callable[[], T]) -> T:
        told = [function() if self.rank == 0 else None]
        self._exchange(lambda: dist.broadcast_object_list(told, 0, group=self._talk))
        return told[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        told: list[Any] = [None] * self.size
        self._exchange(lambda: dist.all_gather_object(told, value, group=self._talk))
        return told

    @contextmanager
    def agreed(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            if not self._is_known(error):
                self._confer(error)
            raise
        else:
            self._confer()

    def leave(self, error: BaseException | None) -> None:
        """Part from the others, once all are at this point.

        Args:
            error: what this process leaves with.
        """
        # An interrupt comes to one process and not necessarily to others: nothing to wait for.
        waits = error is None or isinstance(error, (Exception, SystemExit))
        try:
            if waits and not self._is_known(error):
                self._confer(error, leaving=True)
        except BaseException as told:
            error = told
            raise
        finally:
            if waits and self._is_known(error):
                with suppress(FastpruneError), self._connected():
                    dist.barrier(group=self._talk)
            dist.destroy_process_group(self._talk)

    def _is_known(self, error: BaseException | None) -> bool:
        """Whether all raise this already: an error they agreed on, or what was made of it."""
        while error is not None:
            if error is self._settled:
                return True
            error = error.__cause__ or error.__context__
        return False

    def _way(self, tensor: Tensor) -> Any:
        return self._talk if tensor.is_cpu else None

    def _exchange(self, *calls: Callable[[], Any]) -> None:
        self._confer()
        with self._connected():
            for call in calls:
                call()

    def _confer(self, error: BaseException | None = None, *, leaving: bool = False) -> None:
        """Find out whether all are well, and stay or leave together.

        Raises:
            BaseException: this process's own error, or what the first that failed has raised.
        """
        with self._connected():
            states = torch.tensor([error is not None, leaving], dtype=torch.int32)
            dist.all_reduce(states, group=self._talk)
            failed, left = states.tolist()
            if not failed and left in (0, self.size):
                return
            if not failed:
                self._settled = FastpruneError(
                    f"{left} of {self.size} processes left the data-parallel block while others "
                    "were at work: every process has to run the whole block"
                )
                raise self._settled
            told: list[FastpruneError | None] = [None] * self.size
            dist.all_gather_object(told, self._tellable(error), group=self._talk)
        first = next(rank for rank, other in enumerate(told) if other is not None)
        # What is not fastprune's own is a defect, and best seen where it happened.
        own = first == self.rank or not isinstance(error, FastpruneError | None)
        self._settled = error if own else told[first]
        assert self._settled is not None
        raise self._settled

    def _tellable(self, error: BaseException | None) -> FastpruneError | None:
        """An error as the other processes raise it."""
        if error is None or isinstance(error, FastpruneError):
            return error
        if isinstance(error, SystemExit):
            return FastpruneError(f"process {self.rank} has left before the others were done")
        reason = f"{type(error).__name__}: {_first_line(error)}"
        return FastpruneError(f"process {self.rank} failed ({reason}); see its output")

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Say in one line what it means when an exchange breaks."""
        try:
            yield
        except FastpruneError:
            raise
        except RuntimeError as error:
            self._settled = FastpruneError(
                "another process of this run has ended or cannot be reached; its own output says "
                f"why ({_first_line(error)})"
            )
            raise self._settled from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
