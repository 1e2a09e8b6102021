"""What a GPU session came to: its steps, and every target beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from targets import TARGETS, find


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        status: "ok", "failed", "timed out", "skipped" or "no time left".
        note: the last line of its output.
    """

    name: str
    status: str
    seconds: float
    note: str

    def __str__(self) -> str:
        return f"{self.status} in {self.seconds:.0f} s: {self.note}"


def write_summary(out: Path, machine: str, outcomes: Sequence[Outcome], keep: bool) -> str:
    """Write ``summary.json`` and ``summary.md`` from the results in ``out``.

    Args:
        machine: the GPU and its driver.
        keep: steps of an earlier summary that did not run again stay in it.

    Returns:
        The Markdown.
    """
    target = out / "summary.json"
    steps: dict[str, dict[str, Any]] = {}
    if keep and target.is_file():
        steps = {step["name"]: step for step in json.loads(target.read_text())["steps"]}
    steps |= {outcome.name: asdict(outcome) for outcome in outcomes}
    found = dict(_benchmark_files(out))
    extras = [
        (benchmark["name"], benchmark["extra_info"])
        for content in found.values()
        for benchmark in content["benchmarks"]
    ]
    record = {
        "machine": machine,
        "made_with": {name: content["machine_info"] for name, content in found.items()},
        "steps": list(steps.values()),
        "targets": list(_judged(extras)),
    }
    target.write_text(json.dumps(record, indent=2) + "\n")
    text = _markdown(record)
    (out / "summary.md").write_text(text)
    return text


def _benchmark_files(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """pytest-benchmark leaves an empty file where nothing ran."""
    for path in sorted(out.glob("bench_*.json")):
        if content := path.read_text():
            yield path.stem, json.loads(content)


def _judged(extras: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    for target in (target for target in TARGETS if target.device == "cuda"):
        value = find(extras, target)
        verdict = "not measured" if value is None else "met" if target.met(value) else "missed"
        yield {
            "case": target.case,
            "target": target.what,
            "measured": value,
            "verdict": verdict,
        }


def _markdown(record: Mapping[str, Any]) -> str:
    lines = [f"# {record['machine']}", "", "| step | status | seconds | last line |"]
    lines.append("|---|---|---:|---|")
    for step in record["steps"]:
        note = step["note"].replace("|", "\\|")
        lines.append(f"| {step['name']} | {step['status']} | {step['seconds']:.0f} | {note} |")
    lines += ["", "| case | target | measured | verdict |", "|---|---|---:|---|"]
    for row in record["targets"]:
        measured = "" if row["measured"] is None else f"{row['measured']:.4g}"
        lines.append(f"| {row['case']} | {row['target']} | {measured} | {row['verdict']} |")
    return "\n".join(lines) + "\n"
