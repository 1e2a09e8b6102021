"""How processes talk, and what becomes of all when one of them fails."""

from __future__ import annotations

import os
import time

import pytest
import torch
from ranks import run_ranks
from torch import distributed as dist

from fastprune.distributed import ALONE, check_alone, current_group, data_parallel
from fastprune.errors import DataError, FastpruneError


def exchanges():
    """What a rank sees of sums, copies, values and errors."""
    seen = {}
    with data_parallel() as group:
        seen["current"] = current_group() is group
        with data_parallel() as inner:
            seen["nested"] = inner is group
        sums = [torch.full((3,), 1.0 + group.rank, dtype=d) for d in (torch.float32, torch.float64)]
        group.sum_(*sums, torch.ones(0))
        copied = torch.tensor([10 * (1 + group.rank)])
        group.copy_(copied)
        seen["sums"], seen["copied"] = sums, copied
        calls = []
        seen["first"] = group.first(lambda: calls.append(0) or "of the first")
        seen["calls"] = len(calls)
        seen["gathered"] = group.gather(group.rank)
        # Ranks fail at other points than others wait at; and after each, all go on together.
        seen["told"] = [
            caught(group, lambda: fail(group, DataError("no data"), 1)),
            caught(group, lambda: fail(group, ValueError("a bug\nwith details"), 2)),
            caught(group, lambda: fail(group, DataError(f"of {group.rank}"), 1, 2)),
            caught(group, lambda: group.first(lambda: fail(group, DataError("scoring"), 0))),
        ]
        seen["refused"] = caught(group, lambda: check_alone("lut"))
        seen["after"] = group.gather("well")
    seen["left"] = current_group() is ALONE and not dist.is_initialized()
    return seen


def fail(group, error, *ranks):
    if group.rank in ranks:
        raise error
    group.gather("something that the others never send")
    group.sum_(torch.ones(2))


def caught(group, action):
    try:
        with group.agreed(), group.agreed():
            action()
    except Exception as error:
        return error
    return None


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return run_ranks(3, tmp_path_factory.mktemp("three"), exchanges)


def test_sums_copies_and_values_reach_everyone(three):
    for rank, seen in enumerate(three):
        assert seen["current"]
        assert seen["nested"]
        assert seen["left"]
        assert all(s.tolist() == [6.0] * 3 for s in seen["sums"])
        assert seen["copied"].tolist() == [10]
        assert seen["first"] == "of the first"
        assert seen["calls"] == (rank == 0)
        assert seen["gathered"] == [0, 1, 2]


def test_what_one_raises_all_raise_and_then_go_on(three):
    for rank, seen in enumerate(three):
        lost, bug, both, scoring = seen["told"]
        assert (type(lost), str(lost)) == (DataError, "no data")
        if rank == 2:
            assert isinstance(bug, ValueError)
        else:
            assert isinstance(bug, FastpruneError)
            assert str(bug) == "process 2 failed (ValueError: a bug); see its output"
        assert str(both) == "of 1"
        assert (type(scoring), str(scoring)) == (DataError, "scoring")
        assert seen["after"] == ["well"] * 3
        assert "start it without torchrun" in str(seen["refused"])


def killed():
    start = time.monotonic()
    try:
        with data_parallel() as group:
            if group.rank == 1:
                os._exit(9)
            group.sum_(torch.ones(2))
    except FastpruneError as error:
        return str(error), time.monotonic() - start
    return None


def test_nobody_waits_for_a_process_that_is_gone(tmp_path):
    first, _, third = run_ranks(3, tmp_path, killed, ends=9)
    for message, seconds in (first, third):
        assert message.startswith("another process of this run has ended")
        assert "\n" not in message
        assert seconds < 60


def test_a_process_alone_has_a_group_of_its_own(monkeypatch):
    with data_parallel() as group:
        assert (group.rank, group.size) == (0, 1)
        assert group is ALONE
        ours = torch.ones(2)
        group.sum_(ours)
        group.copy_(ours)
        assert ours.tolist() == [1.0, 1.0]
        assert group.gather(3) == [3]
        with pytest.raises(KeyError), group.agreed():
            raise KeyError
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with data_parallel() as group:
        assert group is ALONE


def test_an_incomplete_launch_is_one_line(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(FastpruneError, match=r"MASTER_ADDR.*start them with torchrun$") as e,
        data_parallel(),
    ):
        pass
    assert "\n" not in str(e.value)


def leaves_early():
    """What two ranks get when one has nothing to do in the block."""
    try:
        with data_parallel() as group:
            if group.rank == 0:
                group.gather("work")
                group.sum_(torch.ones(1))
    except FastpruneError as error:
        return str(error)
    return None


def wraps_what_all_raise():
    """What two ranks get when one makes another error of what all raise."""
    try:
        with data_parallel() as group:
            try:
                with group.agreed():
                    fail(group, DataError("no data"), 1)
            except DataError as error:
                if group.rank == 0:
                    raise RuntimeError("wrapped") from error
                raise
    except (RuntimeError, DataError) as error:
        return type(error).__name__
    return None


def test_a_process_that_leaves_early_is_missed_at_once(tmp_path):
    told = run_ranks(2, tmp_path, leaves_early)
    assert told[0] == told[1]
    assert "every process has to run the whole block" in told[0]


def test_an_error_made_of_an_agreed_one_keeps_nobody_waiting(tmp_path):
    assert run_ranks(2, tmp_path, wraps_what_all_raise) == ["RuntimeError", "DataError"]
