"""``fastprune inspect``: where a model can be pruned, what units cost, and whether that holds."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from fastprune.budget import price_sites
from fastprune.cli.options import output_options
from fastprune.compaction import ProofReport, prove
from fastprune.errors import FastpruneError
from fastprune.inputs import check_prunable, load_model
from fastprune.progress import calm_libraries
from fastprune.structure import find_inner_sites, find_sites


@click.command()
@click.argument("model")
@click.option("--seq-len", default=128.0, show_default=True, help="Tokens at which MACs count.")
@click.option("--inner", is_flag=True, help="Look inside heads: query-key and value dimensions.")
@output_options
def inspect(model: str, seq_len: float, inner: bool, quiet: bool, as_json: bool) -> None:
    """Print the sites of MODEL, and prove on the model itself that they can be removed."""
    calm_libraries()
    if not 0 < seq_len < float("inf"):
        raise FastpruneError(f"seq-len must be a positive number of tokens, got {seq_len}")
    loaded = load_model(model, "cpu")
    check_prunable(loaded)
    sites = find_inner_sites(loaded) if inner else find_sites(loaded)
    macs = price_sites(sites, "macs", seq_len)
    params = price_sites(sites, "params", seq_len)
    proof = prove(loaded, sites=sites)
    if as_json:
        rows = [
            {**asdict(site), "macs_per_unit": mac, "params_per_unit": par, "proof": p.holds}
            for site, mac, par, p in zip(
                sites, macs.per_unit, params.per_unit, proof.sites, strict=True
            )
        ]
        click.echo(json.dumps({"sites": rows, "proof": proof.holds}, indent=2))
    elif not quiet:
        title = f"{type(loaded).__name__}: columns, MACs at {seq_len:g} tokens, parameters per unit"
        table = Table(title=title)
        for column in ("layer", "kind", "units", "columns", "MACs", "parameters", "proof"):
            table.add_column(column, no_wrap=True)
        for site, mac, par, p in zip(
            sites, macs.per_unit, params.per_unit, proof.sites, strict=True
        ):
            verdict = "holds" if p.holds else f"off by {p.error:.1e}"
            cells = (site.layer, site.kind, site.units, site.group, f"{mac:.0f}", f"{par:.0f}")
            table.add_row(*map(str, cells), verdict)
        console = Console(highlight=False)
        console.print(table)
        console.print(_summary(proof, macs.dense, params.dense))
    if not proof.holds:
        sys.exit(1)


def _summary(proof: ProofReport, macs: float, params: float) -> str:
    cost = f"prunable: {macs / 1e6:.1f}M MACs, {params / 1e6:.2f}M parameters"
    if proof.holds:
        return f"{cost}\nproof: masking half of every site's units equals removing them"
    failure = proof.first_failure
    assert failure is not None
    return f"{cost}\nproof FAILED first at {failure.site.name}: correct the declaration"
