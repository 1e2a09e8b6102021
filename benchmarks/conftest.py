from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from assets import assets, sst2
from measure import compare
from peaks import copy_rate, gemm_rate
from provenance import provenance
from targets import case_name

__all__ = ["assets", "sst2"]

_DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tiny", action="store_true", help="show that everything runs, in seconds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case per device there is and shape of the test's ``shapes``."""
    marker = metafunc.definition.get_closest_marker("shapes")
    if marker is None:
        return
    tiny = metafunc.config.getoption("tiny")
    choices = [
        pytest.param(torch.device(device), shape, id="-".join(map(str, (device, *shape))))
        for device in _DEVICES
        for shape in marker.kwargs["tiny" if tiny else device]
    ]
    metafunc.parametrize(("device", "shape"), choices)


@pytest.fixture
def compared(
    benchmark: Any, request: pytest.FixtureRequest, device: torch.device, shape: tuple[Any, ...]
) -> Callable[..., None]:
    """``measure.compare`` for this case, with the rates that its work and time come to.

    Keywords: ``flops`` and ``bytes`` that the mathematics needs, every input read and every output
    written once; ``arithmetic``, the type whose GEMM bounds it; others go to ``compare``.
    """

    def run(
        *, flops: float, bytes: float, arithmetic: torch.dtype = torch.float32, **arguments: Any
    ) -> None:
        tiny = request.config.getoption("tiny")
        operation = request.function.__name__.removeprefix("test_")
        benchmark.group = f"{case_name(operation, shape)} {device}"
        timed = compare(benchmark, device, **arguments)
        copied = copy_rate(device, tiny)
        benchmark.extra_info.update(
            case=case_name(operation, shape),
            device=str(device),
            threads=torch.get_num_threads(),
            flops=flops,
            bytes=bytes,
            arithmetic=str(arithmetic).removeprefix("torch."),
            **timed,
            bytes_per_s=bytes / timed["seconds"],
            flops_per_s=flops / timed["seconds"],
            copy_bytes_per_s=copied,
            gemm_flops_per_s=gemm_rate(arithmetic, device, tiny),
            copy_share=bytes / timed["seconds"] / copied,
        )

    return run


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keep what a reader needs: provenance in place of the machine's details, no raw timings."""
    output_json["machine_info"] = provenance()
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)
