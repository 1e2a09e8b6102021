"""One model over several processes: each sees its share of the samples, and sums are over all."""

from fastprune.distributed.alike import check_alike, check_alone, check_devices
from fastprune.distributed.group import ALONE, Group, current_group
from fastprune.distributed.launch import data_parallel
from fastprune.distributed.shares import share

__all__ = [
    "ALONE",
    "Group",
    "check_alike",
    "check_alone",
    "check_devices",
    "current_group",
    "data_parallel",
    "share",
]
