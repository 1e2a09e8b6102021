"""Runs the emulated cases in a process of their own, up to the first that fails.

    python run.py [--sanitized] [--without-barrier FILE:LINE] [OPERATION ...]

Exit status: 0 all passed, 3 a case failed (it is named), negative a crash. FILE is relative to
csrc. The sanitized build needs libasan preloaded; see test_sanitized.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from emulated import CASES, run
from emulator import SCHEDULES, Emulator, build


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitized", action="store_true")
    parser.add_argument("--without-barrier", metavar="FILE:LINE")
    parser.add_argument("operations", nargs="*")
    options = parser.parse_args()

    emulator = Emulator(build(options.sanitized))
    if options.without_barrier:
        file, line = options.without_barrier.rsplit(":", 1)
        emulator.skip_barrier(file, int(line))
    names = [n for n in CASES if not options.operations or n.split(":")[0] in options.operations]
    everything = itertools.product(reversed(SCHEDULES), (1, 0), names)
    if options.sanitized:
        # Slow, and addresses do not depend on the schedule: each case once, every second one by a
        # single block. Races need every combination.
        everything = zip(itertools.repeat("round_robin"), itertools.cycle((1, 0)), names)
    for schedule, blocks, name in everything:
        emulator.schedule(schedule)
        emulator.limit_grid(blocks)
        try:
            run(emulator, name)
        except (AssertionError, RuntimeError) as error:
            print(f"{name} [{schedule}, at most {blocks or 'all'} blocks]: {error}")
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
