"""Layer-wise tuning of a pruned model against the model it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastprune.data import Samples
from fastprune.device import autocast, device_of
from fastprune.errors import NumericalError
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites, get_projection, set_projection
from fastprune.structure.declaration import anatomy
from fastprune.tuning.readout import Readout, find_readout, select_tokens
from fastprune.tuning.solvers import SolveFailure, Update, reconstruct_weights, scale_units
from fastprune.tuning.system import LeastSquares
from fastprune.tuning.tape import SiteProbe, TapeBatch, record, run_block

Solver = Callable[[Site, LeastSquares, Tensor, Tensor | None], Update]
TUNERS: dict[str, Solver | None] = {
    "weights": reconstruct_weights,
    "scale": scale_units,
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
    solver: Solver,
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    skip_first_attention: bool = False,
    stop_at_failure: bool = False,
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
        solver: one of :data:`TUNERS`.
        batch_size: samples per forward pass.
        dtype: autocast type of the forward passes; sums and solves are float64.
        skip_first_attention: leave the first attention sublayer as it is (strict parity).
        stop_at_failure: leave everything after a site that fails (strict parity); otherwise only
            that site keeps its values.
        progress: show a progress bar.

    Returns:
        One entry per site visited.
    """
    teacher_sites = find_sites(teacher)
    student_sites = find_sites(student)
    blocks = anatomy(teacher).blocks
    modes = [(module, module.training) for m in (teacher, student) for module in m.modules()]
    teacher.eval()
    student.eval()
    outcomes: list[SiteTuning] = []
    try:
        first = next(samples.batches(batch_size))
        readout = find_readout(teacher, blocks[-1], first)
        tape = record(teacher, blocks, samples.batches(batch_size), dtype)
        walk = _Walk(teacher, student, tape, dtype)
        for layer, block in enumerate(progress_bar("tune", blocks, enabled=progress, unit="layer")):
            last = layer == len(blocks) - 1
            here = [site for site in student_sites if site.block == block]
            read = {site.name: _readout(site, readout if last else "all") for site in here}
            targets = walk.advance_teacher(layer, block, here, teacher_sites, read)
            for site in here:
                if skip_first_attention and layer == 0 and site.kind == "attention":
                    continue
                system = walk.system(layer, block, site, targets[site.name], read[site.name])
                outcome = _apply(student, site, system, solver, targets[site.name])
                outcomes.append(outcome)
                if outcome.failure is not None and stop_at_failure:
                    return outcomes
            if not last:
                walk.advance_student(layer, block)
    finally:
        for module, training in modes:
            module.training = training
    return outcomes


def _readout(site: Site, readout: Readout) -> Readout:
    return readout if site.kind == "ffn" else "all"


def _apply(
    student: nn.Module, site: Site, system: LeastSquares, solver: Solver, targets: list[Tensor]
) -> SiteTuning:
    weight, bias = get_projection(student, site)
    scale = sum(float(target.double().square().sum()) for target in targets)
    relative = float(system.error) / max(scale, torch.finfo(torch.float64).tiny)
    try:
        update = solver(site, system, weight, bias)
        set_projection(student, site, update.weight, update.bias)
    except (SolveFailure, NumericalError) as failure:
        return SiteTuning(site.name, relative, str(failure))
    return SiteTuning(site.name, relative)


class _Walk:
    """Teacher and student, walked through the layers side by side."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, tape: list[TapeBatch], dtype: torch.dtype
    ) -> None:
        self._teacher, self._student, self._tape, self._dtype = teacher, student, tape, dtype
        self._teacher_hidden = [batch.hidden for batch in tape]
        self._student_hidden = list(self._teacher_hidden)
        self._device = device_of(student)

    def advance_teacher(
        self,
        layer: int,
        block: str,
        wanted: Sequence[Site],
        teacher_sites: Sequence[Site],
        read: dict[str, Readout],
    ) -> dict[str, list[Tensor]]:
        """Run the teacher's layer; the sublayer outputs at the wanted sites, per batch."""
        residuals = {site.name: site.residual for site in teacher_sites}
        targets: dict[str, list[Tensor]] = {site.name: [] for site in wanted}
        module = self._teacher.get_submodule(block)
        for i, batch in enumerate(self._tape):
            with ExitStack() as stack:
                stack.enter_context(autocast(self._device, self._dtype))
                probes = {
                    name: stack.enter_context(SiteProbe(self._teacher, name, residuals[name]))
                    for name in targets
                }
                hidden = run_block(module, self._teacher_hidden[i], batch.calls[layer])
            self._teacher_hidden[i] = hidden
            for name, probe in probes.items():
                output = probe.output.view_as(probe.residual) + probe.residual
                targets[name].append(_rows(output, batch.valid, read[name]))
        return targets

    def system(
        self, layer: int, block: str, site: Site, targets: list[Tensor], readout: Readout
    ) -> LeastSquares:
        """Sum up the least-squares problem of a student's site."""
        weight, bias = get_projection(self._student, site)
        system = LeastSquares.empty(site.columns, site.outputs, weight.device)
        module = self._student.get_submodule(block)
        for i, batch in enumerate(self._tape):
            with (
                SiteProbe(self._student, site.name, site.residual, stop=True) as probe,
                autocast(self._device, self._dtype),
            ):
                run_block(module, self._student_hidden[i], batch.calls[layer])
            x = _rows(probe.input, batch.valid, readout).to(weight.dtype)
            residual = _rows(probe.residual, batch.valid, readout)
            system.add(x, targets[i] - residual - torch.nn.functional.linear(x, weight, bias))
        return system

    def advance_student(self, layer: int, block: str) -> None:
        """Run the student's tuned layer."""
        module = self._student.get_submodule(block)
        for i, batch in enumerate(self._tape):
            with autocast(self._device, self._dtype):
                self._student_hidden[i] = run_block(
                    module, self._student_hidden[i], batch.calls[layer]
                )


def _rows(values: Tensor, valid: Tensor, readout: Readout) -> Tensor:
    """The tokens that count: [samples, tokens, width] or [tokens, width] to [counted, width]."""
    return values.reshape(*valid.shape, values.shape[-1])[select_tokens(readout, valid)]
