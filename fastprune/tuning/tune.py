"""Layer-wise tuning of a pruned model against the model it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastprune.data import Samples
from fastprune.device import evaluation_mode
from fastprune.errors import NumericalError
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites, get_projection, set_projection
from fastprune.structure.declaration import anatomy
from fastprune.tuning.readout import Readout, find_readout
from fastprune.tuning.solvers import SolveFailure, Tuner, reconstruct_weights, scale_units
from fastprune.tuning.system import LeastSquares
from fastprune.tuning.tape import record
from fastprune.tuning.walk import Walk

TUNERS: dict[str, Tuner | None] = {
    "weights": Tuner(reconstruct_weights, emptied=True),
    "scale": Tuner(scale_units),
    "none": None,
}
"""Ways to tune, by the name users give."""


@dataclass(frozen=True)
class SiteTuning:
    """What tuning did to one site.

    Attributes:
        site: its name.
        relative_error: squared error of the sublayer output before tuning, relative to the
            teacher's output.
        failure: why the site kept its untuned values; None where it was tuned.
    """

    site: str
    relative_error: float
    failure: str | None = None


@torch.no_grad()
def tune(
    teacher: nn.Module,
    student: nn.Module,
    samples: Samples,
    tuner: Tuner,
    *,
    metrics: Mapping[str, Tensor] | None = None,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> list[SiteTuning]:
    """Tune the output projections of ``student`` in place, first layer to last.

    At each site the target is the teacher's sublayer output, residual included and before any
    norm; the student's own residual, carried along from its tuned earlier layers, is subtracted.
    So each site also corrects the errors of those before it.

    Args:
        teacher: the model to imitate; same layers as the student.
        student: a pruned model; only its output projections change.
        samples: calibration samples; labels are not used. Padding contributes nothing.
        tuner: one of :data:`TUNERS`.
        metrics: per site, [outputs, outputs], how errors of its output are weighed by solvers
            that make use of it; plain squares where there is none.
        batch_size: samples per forward pass.
        dtype: autocast type of the forward passes; sums and solves are float64.
        progress: show a progress bar.

    Returns:
        One entry per site visited.
    """
    outcomes = []
    with evaluation_mode(teacher, student):
        for outcome in _tune_sites(
            teacher, student, samples, tuner, metrics or {}, batch_size, dtype, progress
        ):
            outcomes.append(outcome)
            if outcome.failure is not None and tuner.stop_at_failure:
                break
    return outcomes


def _tune_sites(
    teacher: nn.Module,
    student: nn.Module,
    samples: Samples,
    tuner: Tuner,
    metrics: Mapping[str, Tensor],
    batch_size: int,
    dtype: torch.dtype,
    progress: bool,
) -> Iterator[SiteTuning]:
    blocks = anatomy(teacher).blocks
    sites = _tunable_sites(teacher, student, tuner)
    readout = find_readout(teacher, blocks[-1], next(samples.batches(batch_size)))
    tape = record(teacher, blocks, samples.batches(batch_size), dtype)
    walk = Walk(teacher, student, tape, dtype, metrics)
    for layer, block in enumerate(progress_bar("tune", blocks, enabled=progress, unit="layer")):
        last = layer == len(blocks) - 1
        here = [site for site in sites if site.block == block]
        read = {site.name: _readout(site, readout if last else "all") for site in here}
        targets = walk.advance_teacher(layer, block, here, read)
        for site in here:
            system = walk.least_squares(layer, block, site, targets, read[site.name])
            yield _solve(student, site, system, tuner, targets[site.name])
        if not last:
            walk.advance_student(layer, block)


def _tunable_sites(teacher: nn.Module, student: nn.Module, tuner: Tuner) -> list[Site]:
    """The sites to visit, in forward order, as wide as they are in the student."""
    left = {site.name: site for site in find_sites(student)}
    sites = []
    for site in find_sites(teacher):
        if site.layer == 0 and site.kind == "attention" and not tuner.first_attention:
            continue
        if site.name in left:
            sites.append(left[site.name])
        elif tuner.emptied and site.kind == "ffn":
            sites.append(replace(site, units=0))
    return sites


def _readout(site: Site, readout: Readout) -> Readout:
    return readout if site.kind == "ffn" else "all"


def _solve(
    student: nn.Module, site: Site, system: LeastSquares, tuner: Tuner, targets: list[Tensor]
) -> SiteTuning:
    weight, bias = get_projection(student, site)
    scale = sum(float(target.square().sum(dtype=torch.float64)) for target in targets)
    relative = float(system.error) / max(scale, torch.finfo(torch.float64).tiny)
    try:
        update = tuner.solve(site, system, weight, bias)
        set_projection(student, site, update.weight, update.bias)
    except (SolveFailure, NumericalError) as failure:
        return SiteTuning(site.name, relative, str(failure))
    return SiteTuning(site.name, relative)
