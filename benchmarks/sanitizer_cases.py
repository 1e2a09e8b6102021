#!/usr/bin/env python
"""Every kernel and template branch once, on small inputs, to run under compute-sanitizer.

    PYTHONPATH=tests PYTORCH_NO_CUDA_MEMORY_CACHING=1 \\
        compute-sanitizer --tool racecheck --error-exitcode 1 python benchmarks/sanitizer_cases.py

Results are not checked here; ``tests/ops`` does that. Without a GPU the cases run on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from ops.cases import BF16, F16, F32, F64, Case

from fastprune import ops

_INPUTS = (F32, BF16, F16)


def cases() -> Iterator[Case]:
    """One either side of a tile, aligned and not, with padding, gaps and chosen columns."""

    def of(op: str, extents: list[tuple[int, ...]], dtypes: tuple, *traits: tuple[str, ...]):
        return (Case(op, *choice) for choice in product(extents, dtypes, traits))

    # Whole spans, units of half a span, units wider than one, and rows that no vector load fits.
    # The last one is long and alone, so that its tokens are split over blocks.
    spans = [(2, 33, 16, 16), (2, 17, 4, 64), (2, 5, 3, 130), (1, 40, 1021, 1), (1, 1500, 24, 8)]
    yield from of("mask_grad", spans, _INPUTS, (), ("valid",), ("packed",), ("valid", "gaps"))
    # Few tiles of many rows are split over blocks.
    outer = [(257, 49, 1), (33, 97, 5, 193), (2053, 12, 130)]
    yield from of("fisher_outer", outer, _INPUTS, (), ("gaps",))
    # 1, 2, 4, 6 and 8 units per thread, and more than fit into registers.
    rearranged = [(2, 0, 3), (3, 12, 7, 31), (1, 257)]
    rearranged += [(1, units) for units in (600, 1100, 2100, 3100, 4100)]
    yield from of("greedy_rearrange", rearranged, (F32,), (), ("tied",))
    chosen = [("valid", "columns"), ("columns", "sum32", "gaps")]
    yield from of("gram", [(257, 97), (511, 193), (4099, 129)], _INPUTS, (), *chosen)
    weighed = [(12, 8, 31), (97, 1, 65), (3, 67, 129)]
    yield from of("tuning_system", weighed, (*_INPUTS, F64), (), ("sum32", "gaps"))
    systems = [(3, 12, 7, 31), (70, 33, 64), (33, 64, 65), (5, 191, 192, 193), (200, 130)]
    yield from of("block_lstsq", systems, (F32, F64), ())
    # One either side of a panel, a tile and a block's threads; heads; the widest units.
    removed = [(3, 31, 1, 65, 1, 257, 1), (33, 12, 64, 5, 3, 97, 1), (7, 2, 256)]
    yield from of("obs_greedy", removed, (F32, F64), ())
    # One either side of what a block turns, of a tile and of a part; more than one pass.
    compared = [(2, 31, 257), (3, 129, 40), (265, 1, 2)]
    yield from of("trajectory_distance", compared, _INPUTS, (), ("zeros", "gaps"))
    yield from of(
        "hard_concrete", [(3, 0, 257), (2,) * 100], (F32, F64), (), ("sublayers", "hidden", "gaps")
    )
    for op in ("masked_norm", "masked_norm_backward"):
        yield from of(op, [(9, 33), (129, 257)], (F32, F64), ("gaps",), ("rms", "no bias"))
    yield from of("path_step", [(1, 1), (3, 257), (2, 5000)], (F32, F64), (), ("gaps",))


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = 0
    for case in cases():
        print(case, flush=True)  # the last one printed is the one that stopped
        getattr(ops, case.op)(**case.arguments(device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        count += 1
    print(f"{count} cases on {device}")


if __name__ == "__main__":
    main()
