"""The processes that work on one model: a single one, unless they have joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Group:
    """A process that works alone, and what any group of processes offers.

    Every process of a group calls the same methods in the same order; each waits for the others.

    Attributes:
        rank: number of this process, from 0 on.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def sum_(self, *tensors: Tensor) -> None:
        """Replace contiguous tensors by their sums over all processes, alike to the last bit."""

    def copy_(self, *tensors: Tensor) -> None:
        """Replace contiguous tensors by those of the first process."""

    def first(self, function: Callable[[], T]) -> T:
        """What a function returns in the first process, which alone calls it.

        It should return plain values or tensors on the CPU: they are pickled.
        """
        return function()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank. They are pickled."""
        return [value]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that either every process finishes, or none.

        What is raised in one process is raised in all: a :class:`FastpruneError` as it is, anything
        else as a :class:`FastpruneError` that names the process. It reaches the others where they
        next wait, so nobody waits for a process that has failed.
        """
        yield


ALONE = Group()
_current: ContextVar[Group] = ContextVar("group", default=ALONE)


def current_group() -> Group:
    """The group that :func:`fastprune.data_parallel` has joined; otherwise this process alone."""
    return _current.get()


@contextmanager
def joined(group: Group) -> Iterator[None]:
    """Make a group the current one within the block."""
    token = _current.set(group)
    try:
        yield
    finally:
        _current.reset(token)
