"""``fastprune lut``: measure what sublayers take on this device."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from fastprune.atomic import check_file
from fastprune.budget.latency import LatencyTable
from fastprune.cli.options import output_options, running_options
from fastprune.device import resolve_dtype
from fastprune.distributed import check_alone
from fastprune.evaluation import measure_latency_table
from fastprune.inputs import check_prunable, load_model
from fastprune.progress import calm_libraries


@click.command()
@click.argument("model")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write, table.json."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--batch", default=32, show_default=True, help="Samples per forward pass.")
@click.option(
    "--length",
    default=128,
    show_default=True,
    help="Tokens per sample; images have the size that the model takes.",
)
@click.option("--compile", "compiled", is_flag=True, help="Put models through torch.compile.")
@click.option(
    "--rounds", type=int, help="Passes per variant.  [default: 5 to 25, for half a minute]"
)
@running_options
@output_options
def lut(
    model: str,
    out: Path,
    overwrite: bool,
    batch: int,
    length: int,
    compiled: bool,
    rounds: int | None,
    device: str,
    dtype: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure the latency of MODEL's sublayers on this device, for latency budgets.

    Passes of variants with other numbers of heads and filters take turns. The table is a file to
    keep and share: fastprune prune MODEL --budget latency=0.7 --latency-table table.json
    """
    calm_libraries()
    check_alone("lut")
    check_file(out, overwrite)
    loaded = load_model(model, device)
    check_prunable(loaded)
    table = measure_latency_table(
        loaded,
        batch=batch,
        length=length,
        dtype=resolve_dtype(dtype),
        compiled=compiled,
        rounds=rounds,
        progress=not (quiet or as_json),
    )
    table.save(out, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(table.to_dict(), indent=2))
    elif not quiet:
        _print(table, out)
    for warning in table.warnings(loaded):
        click.echo(f"fastprune: warning: {warning}", err=True)


def _print(table: LatencyTable, out: Path) -> None:
    console = Console(highlight=False)
    place = table.place
    threads = f", {place.threads} threads" if place.threads else ""
    console.print(f"milliseconds per sublayer, {table.workload}, on {place.device}{threads}")
    shown = Table()
    columns: list[list[str]] = []
    for sublayer in table.sublayers:
        unit = "heads" if sublayer.shape.kind == "attention" else "filters"
        shown.add_column(unit, justify="right")
        shown.add_column("ms", justify="right")
        columns.append([str(count) for count in sublayer.units])
        columns.append([f"{ms:.3f}" for ms in sublayer.milliseconds])
    for row in zip_longest(*columns, fillvalue=""):
        shown.add_row(*row)
    console.print(shown)
    console.print(
        f"whole model {table.dense_ms:.2f} ms, {table.fixed_ms:.2f} ms of it without sublayers; "
        f"its parts add up to {100 * table.parts:.1f} % of it"
    )
    console.print(f"saved to {out}")
