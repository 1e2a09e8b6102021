"""``fastprune prune``: the main job."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from fastprune.atomic import check_target
from fastprune.budget import Budget, parse_budget
from fastprune.cli.options import (
    data_options,
    output_options,
    pruning_options,
    running_options,
    source_options,
)
from fastprune.cli.tables import print_report
from fastprune.compaction.directories import budget_directory
from fastprune.device import resolve_dtype
from fastprune.distributed import current_group
from fastprune.pipeline import prune_to_budgets
from fastprune.progress import calm_libraries
from fastprune.settings import Settings


@click.command()
@click.argument("model")
@source_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=["macs=0.5"],
    show_default=True,
    metavar="KIND=VALUE",
    help="macs=0.5, params=0.6 or latency=0.7 for a share, macs=250M or latency=12ms for a number."
    " May repeat: one calibration, one subdirectory of --out per budget.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output directory.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output directory.")
@pruning_options
@data_options
@running_options
@output_options
def prune(**options: Any) -> None:
    """Prune MODEL (a directory or a hub id) and write the smaller model to --out."""
    prune_and_save(**options)


def prune_and_save(
    *,
    model: str,
    train: str,
    eval_data: str | None,
    budgets: Sequence[str],
    out: Path,
    overwrite: bool,
    dtype: str,
    quiet: bool,
    as_json: bool,
    begun: Callable[[Budget], bool] = lambda _: False,
    **options: Any,
) -> None:
    """Prune to every budget, and save each model as soon as it is there.

    Args:
        begun: whether an earlier run has begun with a budget, which this one goes on with: what it
            has saved already is saved again.
        options: of :class:`Settings`.
    """
    calm_libraries()
    asked = [parse_budget(budget) for budget in budgets]
    targets = {
        target: overwrite or begun(budget)
        for target, budget in zip(_targets(out, asked), asked, strict=True)
    }
    sources = [model, train, eval_data]

    def check() -> None:
        for target, replace in targets.items():
            check_target(target, replace, keep=sources)

    # The first process saves, perhaps where others have a directory of that name.
    current_group().first(check)
    settings = Settings(
        budgets=tuple(asked),
        dtype=resolve_dtype(dtype),
        progress=not (quiet or as_json),
        **options,
    )
    reports = []
    results = prune_to_budgets(model, train, settings, eval_data=eval_data)
    for result, (target, replace) in zip(results, targets.items(), strict=True):
        # Saved as they come: what a later budget runs into does not cost the earlier ones.
        result.save_pretrained(target, overwrite=replace)
        reports.append(result.report.to_dict())
        if not (quiet or as_json):
            print_report(result.report, target, stock=result.uniform)
        for warning in result.report.warnings if quiet or as_json else ():
            click.echo(f"fastprune: warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(reports if len(reports) > 1 else reports[0], indent=2))


def _targets(out: Path, budgets: Sequence[Budget]) -> list[Path]:
    return [out] if len(budgets) == 1 else [budget_directory(out, b) for b in budgets]
