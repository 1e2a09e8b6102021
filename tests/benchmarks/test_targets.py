"""Targets name benchmarks that exist."""

from __future__ import annotations

import bench_ops
import pytest
from targets import OBS_PIPELINES, PIPELINE, TARGETS, Target, find

OPERATIONS = [target for target in TARGETS if target.operation not in (PIPELINE, *OBS_PIPELINES)]


@pytest.mark.parametrize("target", OPERATIONS, ids=lambda t: f"{t.case} {t.what}")
def test_a_target_is_one_of_the_shapes_on_its_device(target):
    (shapes,) = getattr(bench_ops, f"test_{target.operation}").pytestmark
    assert target.shape in shapes.kwargs[target.device]


def test_a_target_finds_its_number():
    extra = {"case": "gram 9x5", "device": "cuda", "speedup": {"fast": 2.0, "slow": 4.0}}
    fastest = Target("gram", (9, 5), "time share", at_most=0.65)
    assert find([("test_gram", extra)], fastest) == 0.5
    assert fastest.met(0.5)
    assert not fastest.met(0.7)
    over_slow = Target("gram", (9, 5), "speedup", "slow", 4.5)
    assert find([("test_gram", extra)], over_slow) == 4.0
    assert not over_slow.met(4.0)
    on_cpu = [("test_gram", {**extra, "device": "cpu"})]
    assert find(on_cpu, fastest) is None
    assert find(on_cpu, Target("gram", (9, 5), "speedup", at_least=1, device="cpu")) == 2.0


def test_the_pipeline_is_found_by_its_name():
    target = Target(PIPELINE, (), "seconds", at_most=1.0)
    assert find([("test_gpu_pipeline[fisher]", {"seconds": 0.9})], target) == 0.9
    assert find([("test_whole_pipeline", {"seconds": 0.9})], target) is None
