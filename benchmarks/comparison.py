#!/usr/bin/env python
"""Files what ``fastprune compare`` has found among the results, with the commit it was found at.

    fastprune compare MODEL --train … --eval … --out comparison
    python benchmarks/comparison.py comparison sst2

Several directories are filed as one comparison: of the same model, data and seeds, but other
methods. Writes ``benchmarks/results/comparison_<name>.json`` and ``.png``, and prints the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from provenance import ROOT, provenance

from fastprune.comparison import Comparison
from fastprune.comparison.files import markdown, read_trials
from fastprune.comparison.picture import draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIRECTORY")
    parser.add_argument("name")
    options = parser.parse_args()
    trials = [trial for directory in options.directories for trial in read_trials(directory)]
    if not trials:
        parser.error("there are no trials in these directories")
    found = Comparison(tuple(trials))
    told = json.loads((options.directories[0] / "comparison.json").read_text(encoding="utf-8"))
    record = {**told, **provenance(), "trials": [trial.to_dict() for trial in trials]}
    target = ROOT / "benchmarks" / "results" / f"comparison_{options.name}"
    target.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(found).savefig(target.with_suffix(".png"), dpi=120)
    print(markdown(found))


if __name__ == "__main__":
    main()
