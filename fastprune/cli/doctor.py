"""``fastprune doctor``: what was built, what runs, and whether it computes right."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from fastprune import ops
from fastprune.ops.selfcheck import SELF_CHECK_LIMIT, self_check
from fastprune.report import versions


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Tell what was built, which device runs, and check every operation on it."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    findings: dict[str, Any] = {
        "versions": versions(),
        "native": ops.native_status(),
        "devices": {name: _describe(name) for name in devices},
        "self_check": {name: self_check(torch.device(name)) for name in devices},
    }
    errors = [e for check in findings["self_check"].values() for e in check.values()]
    findings["healthy"] = all(error <= SELF_CHECK_LIMIT for error in errors)
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    else:
        _print(findings)
    if not findings["healthy"]:
        sys.exit(1)


def _describe(device: str) -> str:
    if device == "cpu":
        return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, sm_{properties.major}{properties.minor}"


def _print(findings: dict[str, Any]) -> None:
    console = Console(highlight=False)
    native = findings["native"]
    console.print(", ".join(f"{name} {version}" for name, version in findings["versions"].items()))
    if native["reason"]:
        console.print(f"native library: not in use ({native['reason']})")
    else:
        console.print(f"native library: {native['library']}")
    for name, value in (native["build"] or {}).items():
        console.print(f"  {name}: {value}")
    table = Table(title="operations")
    table.add_column("operation")
    for device, description in findings["devices"].items():
        table.add_column(f"{device}: {native[device.split(':')[0]]}\n{description}")
    for name in next(iter(findings["self_check"].values())):
        cells = [_verdict(check[name]) for check in findings["self_check"].values()]
        table.add_row(name, *cells)
    console.print(table)
    console.print("healthy" if findings["healthy"] else "[red]NOT healthy: rebuild or report it[/]")


def _verdict(error: float) -> str:
    return f"ok ({error:.0e})" if error <= SELF_CHECK_LIMIT else f"WRONG ({error:.0e})"
