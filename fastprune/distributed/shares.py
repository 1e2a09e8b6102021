"""Which samples each process takes."""

from __future__ import annotations

from fastprune.data import Samples
from fastprune.distributed.group import Group
from fastprune.errors import DataError


def share(samples: Samples, group: Group, *, together: int = 1) -> Samples:
    """The samples of this process: all processes get about as many tokens.

    Sorted by length, samples are dealt in serpentine order: shares differ by one sample and by no
    more tokens than the longest has. In a share they keep their order.

    Args:
        samples: of all processes.
        group: the processes.
        together: this many samples in a row are not separated, counted from the first.

    Raises:
        DataError: fewer samples, or runs of them, than processes.
    """
    if group.size == 1:
        return samples
    lengths = samples.lengths
    starts = range(0, len(samples), together)
    runs = [range(start, min(start + together, len(samples))) for start in starts]
    if len(runs) < group.size:
        batches = "" if together == 1 else f", in mini-batches of {together} that stay whole,"
        raise DataError(
            f"{len(samples)} calibration samples{batches} are too few for {group.size} processes; "
            f"give more samples, or start at most {len(runs)}"
        )
    runs.sort(key=lambda run: sum(lengths[position] for position in run), reverse=True)
    taken = [run for number, run in enumerate(runs) if _dealt_to(number, group.size) == group.rank]
    return samples.select(sorted(position for run in taken for position in run))


def _dealt_to(number: int, size: int) -> int:
    """Who is dealt the card of this number: 0, 1, 2, 2, 1, 0, 0, 1, …"""
    turn, place = divmod(number, size)
    return size - 1 - place if turn % 2 else place
