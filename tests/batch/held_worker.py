"""The real worker, which stops after its first budget for as long as a file tells it to.

Where ``$HOLD_DIR/NAME`` exists, it writes its process id to ``NAME.held`` and waits there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from fastprune.batch import worker

HOLD = Path(os.environ["HOLD_DIR"])


def run(job, directory, notify) -> None:
    def held(point) -> None:
        notify(point)
        (HOLD / f"{job.name}.held").write_text(str(os.getpid()))
        while (HOLD / job.name).exists():
            time.sleep(0.05)

    worker.run_job(job, directory, held)


if __name__ == "__main__":
    sys.exit(worker.main(sys.argv[1:], run))
