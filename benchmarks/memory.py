#!/usr/bin/env python
"""Peak resident memory of pruning BERT-base on the CPU, above that of the loaded model.

    python benchmarks/memory.py            # 2,048 samples of 13 tokens, as SST-2 has
    python benchmarks/memory.py --tokens 128

Random weights. Writes ``benchmarks/results/memory_cpu.json``, a row per method, number of
tokens and type.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import threading
import time
from pathlib import Path

from bench_pipeline import SHARE, bert_base, random_samples
from provenance import provenance

from fastprune import prune

RESULT = Path(__file__).resolve().parent / "results" / "memory_cpu.json"
_PAGE = resource.getpagesize()


class Peak:
    """Watches the resident memory of this process from a thread."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = resident(), False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._done:
            self.bytes = max(self.bytes, resident())
            time.sleep(0.005)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=13)
    parser.add_argument("--method", default="obs", choices=["obs", "fisher"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    model = bert_base()
    samples = random_samples(arguments.samples, arguments.tokens)
    gc.collect()
    before = resident()
    with Peak() as peak:
        result = prune(
            model,
            samples,
            SHARE,
            method=arguments.method,
            latency=False,
            dtype=arguments.dtype,
            progress=True,
        )
    row = {
        "method": arguments.method,
        "samples": arguments.samples,
        "tokens": arguments.tokens,
        "dtype": arguments.dtype,
        "model_gib": sum(p.nbytes for p in model.parameters()) / 2**30,
        "above_model_gib": (peak.bytes - before) / 2**30,
        "timing_s": result.report.timing_s,
        **provenance(),
    }
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else []
    key = ("method", "samples", "tokens", "dtype")
    rows = [old for old in rows if any(old[name] != row[name] for name in key)]
    RESULT.write_text(json.dumps([*rows, row], indent=2) + "\n")
    print(f"{row['above_model_gib']:.2f} GiB above the model's {row['model_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
