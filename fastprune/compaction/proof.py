"""Proof of a declaration on a live model: masking units must equal removing them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastprune.compaction.surgery import compact
from fastprune.errors import UnsupportedModelError
from fastprune.merging.reduction import unreduce_
from fastprune.structure.declaration import Anatomy, anatomy
from fastprune.structure.inputs import dummy_inputs
from fastprune.structure.masking import masked
from fastprune.structure.site import Site
from fastprune.structure.sites import find_sites

_DOUBLE_LIMIT = 200_000_000
"""Parameters up to which the proof runs in float64; above, in float32."""


@dataclass(frozen=True)
class SiteProof:
    """How far the output of one site differs between the masked and the compacted model."""

    site: Site
    kept: int
    error: float
    """Largest absolute difference over the largest absolute value of the masked output."""
    holds: bool


@dataclass(frozen=True)
class ProofReport:
    """The proof of every site; the first that fails, in forward order, is the culprit."""

    sites: tuple[SiteProof, ...]
    dtype: torch.dtype
    tolerance: float

    @property
    def holds(self) -> bool:
        return all(proof.holds for proof in self.sites)

    @property
    def first_failure(self) -> SiteProof | None:
        return next((proof for proof in self.sites if not proof.holds), None)


def prove(
    model: Any,
    inputs: Mapping[str, torch.Tensor] | None = None,
    *,
    sites: Sequence[Site] | None = None,
    seed: int = 0,
) -> ProofReport:
    """Mask a random half of every site's units, remove the same units, compare all outputs.

    Args:
        model: any model with a declaration; it is not changed.
        inputs: keyword arguments for the base model; random ones built from the config if None.
        sites: what is proven, such as the sites of :func:`find_inner_sites`; by default those of
            :func:`find_sites`.
        seed: of the random units and inputs.

    Two copies run in eval mode, once each; every site's output projection is compared, so a
    failure is pinned to its site. Sites of one unit are proven by removing the sublayer. What
    query-key dimensions do shows in the output of attention.

    Raises:
        UnsupportedModelError: no declaration fits, or what it leaves does not run.
    """
    sites = find_sites(model) if sites is None else sites
    small_enough = sum(p.numel() for p in model.parameters()) <= _DOUBLE_LIMIT
    dtype = torch.float64 if small_enough else torch.float32
    inputs = dummy_inputs(model, seed=seed) if inputs is None else inputs
    inputs = {name: _cast(value, dtype) for name, value in inputs.items()}
    model = copy.deepcopy(model).eval().to(dtype)
    unreduce_(model)  # which tokens are merged depends on the keys of all heads
    masks = _random_masks(sites, seed)
    found = anatomy(model)
    seen = {site: _projection(found, site) for site in sites}
    with masked(model, masks, sites):
        expected = _outputs(model, seen.values(), inputs)
    try:
        actual = _outputs(compact(model, masks, sites), seen.values(), inputs)
    except RuntimeError as failure:
        raise UnsupportedModelError(
            f"the declaration of {model.config.model_type!r} removes units that do not belong "
            f"together, so the small model does not run ({failure}); correct its inputs and parts"
        ) from failure
    tolerance = _tolerance(dtype, sites)
    proofs = []
    for site in sites:
        want, got = expected[seen[site]].double(), actual[seen[site]].double()
        scale = want.abs().max().clamp_min(torch.finfo(want.dtype).tiny)
        error = float((want - got).abs().max() / scale)
        kept = int(masks[site.name].sum())
        proofs.append(SiteProof(site, kept, error, error <= tolerance))
    return ProofReport(tuple(proofs), dtype, tolerance)


def _projection(found: Anatomy, site: Site) -> str:
    """Path of the output projection; the names of sites of queries and keys are not those."""
    if site.kind != "qk":
        return site.name
    return f"{site.block}.{found.declarations[site.layer].heads.output}"


def _random_masks(sites: Sequence[Site], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for site in sites:
        masks[site.name] = torch.zeros(site.units)
        masks[site.name][torch.randperm(site.units, generator=generator)[: site.units // 2]] = 1
    return masks


@torch.no_grad()
def _outputs(
    model: Any, projections: Iterable[str], inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    outputs: dict[str, torch.Tensor] = {}
    hooks = []
    for path in projections:

        def record(module: nn.Module, args: Any, output: torch.Tensor, path: str = path) -> None:
            outputs[path] = output.detach().clone()

        hooks.append(model.get_submodule(path).register_forward_hook(record))
    try:
        getattr(model, "base_model", model)(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _tolerance(dtype: torch.dtype, sites: Sequence[Site]) -> float:
    """Summing k products in another order changes a sum by at most k * eps, relative.

    A site sums over its own columns and, one projection earlier, over the residual width; the
    differences of all earlier sites add up through the residual stream.
    """
    return float(torch.finfo(dtype).eps * sum(site.columns + site.outputs for site in sites))


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype) if value.is_floating_point() else value
