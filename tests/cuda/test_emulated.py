"""The CUDA sources, executed on the CPU (tests/emulator) and compared with float64."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import CASES, run
from emulator import CSRC, RUN, SCHEDULES, Emulator, build

pytestmark = pytest.mark.usefixtures("gcc")


@pytest.fixture(scope="module")
def emulator(gcc: None) -> Emulator:
    return Emulator(build())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", CASES)
def test_matches_the_reference(emulator: Emulator, name: str, schedule: str) -> None:
    emulator.schedule(schedule)
    for blocks in (0, 1):  # one block must do all the work if it is the only one
        emulator.limit_grid(blocks)
        run(emulator, name)


# ---- Barriers -----------------------------------------------------------------------------------

# Files shared by several operations, and the operations that show whether they are right.
SHARED = {
    "syrk": ["gram"],
    "syrk64": ["tuning_system"],
    "syrk_rows": ["gram"],
    "syrk_core": ["gram"],
    "cholesky": ["block_lstsq"],
    "block_lstsq_small": ["block_lstsq"],
    "obs_greedy_steps": ["obs_greedy"],
    "reduce": ["greedy_rearrange", "block_lstsq"],
}
BARRIERS = [
    f"{source.relative_to(CSRC)}:{number}"
    for source in sorted(CSRC.rglob("*.cuh"))
    for number, line in enumerate(source.read_text().splitlines(), 1)
    if re.match(r"\s*__sync(threads|warp)\(\);", line)
]


def test_every_barrier_is_listed() -> None:
    sources = [source.read_text() for source in CSRC.rglob("*.cu*")]
    calls = sum(len(re.findall(r"__sync(?:threads|warp)\(", source)) for source in sources)
    assert len(BARRIERS) == calls > 0


@pytest.mark.parametrize("barrier", BARRIERS)
def test_no_barrier_can_be_left_out(emulator: Emulator, barrier: str) -> None:
    """Without any one barrier some schedule gives a wrong result, so the emulator can fail."""
    kernel = Path(barrier).stem
    operations = SHARED.get(kernel, [kernel])
    command = [sys.executable, str(RUN), "--without-barrier", barrier, *operations]
    done = subprocess.run(command, capture_output=True, text=True)
    # 3: wrong result; negative: the race made an index wild.
    assert done.returncode == 3 or done.returncode < 0, done.stdout + done.stderr
