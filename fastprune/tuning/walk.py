"""Teacher and student, walked through their layers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from fastprune.device import autocast, device_of
from fastprune.structure import Site, get_projection
from fastprune.tuning.readout import Readout, select_tokens
from fastprune.tuning.system import LeastSquares
from fastprune.tuning.tape import SiteProbe, TapeBatch, run_block

Targets = Mapping[str, list[Tensor]]
"""Per site, the teacher's sublayer outputs: one [counted tokens, outputs] per batch."""


class Walk:
    """Holds the hidden states of teacher and student between layers, batch by batch."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        tape: Sequence[TapeBatch],
        dtype: torch.dtype,
        metrics: Mapping[str, Tensor],
    ) -> None:
        self._metrics = metrics
        self._teacher, self._student, self._tape, self._dtype = teacher, student, tape, dtype
        self._teacher_hidden = [batch.hidden for batch in tape]
        self._student_hidden = list(self._teacher_hidden)
        self._device = device_of(student)

    def advance_teacher(
        self, layer: int, block: str, sites: Sequence[Site], readouts: Mapping[str, Readout]
    ) -> Targets:
        """Run the teacher's layer and collect what its sublayers add up to at ``sites``.

        That is the output of the projection plus the residual stream, before any norm.
        """
        targets: dict[str, list[Tensor]] = {site.name: [] for site in sites}
        module = self._teacher.get_submodule(block)
        for i, batch in enumerate(self._tape):
            with ExitStack() as stack:
                stack.enter_context(autocast(self._device, self._dtype))
                probes = [stack.enter_context(SiteProbe(self._teacher, site)) for site in sites]
                hidden = run_block(module, self._teacher_hidden[i], batch.calls[layer])
            self._teacher_hidden[i] = hidden
            for site, probe in zip(sites, probes, strict=True):
                output = probe.output.view_as(probe.residual) + probe.residual
                targets[site.name].append(_rows(output, batch.valid, readouts[site.name]))
        return targets

    def least_squares(
        self, layer: int, block: str, site: Site, targets: Targets, readout: Readout
    ) -> LeastSquares:
        """Sum up how far the student's sublayer is from its target, and why."""
        weight, bias = get_projection(self._student, site)
        metric = self._metrics.get(site.name)
        system = LeastSquares.empty(site.columns, site.outputs, weight.device, metric)
        module = self._student.get_submodule(block)
        for i, batch in enumerate(self._tape):
            with (
                SiteProbe(self._student, site, stop=True) as probe,
                autocast(self._device, self._dtype),
            ):
                run_block(module, self._student_hidden[i], batch.calls[layer])
            x = _rows(probe.input, batch.valid, readout).to(weight.dtype)
            residual = _rows(probe.residual, batch.valid, readout)
            output = nn.functional.linear(x, weight, bias)
            system.add(x, targets[site.name][i] - residual - output)
        return system

    def advance_student(self, layer: int, block: str) -> None:
        """Run the student's tuned layer."""
        module = self._student.get_submodule(block)
        for i, batch in enumerate(self._tape):
            with autocast(self._device, self._dtype):
                hidden = run_block(module, self._student_hidden[i], batch.calls[layer])
            self._student_hidden[i] = hidden


def _rows(values: Tensor, valid: Tensor, readout: Readout) -> Tensor:
    """The tokens that count: [samples, tokens, width] or [tokens, width] to [counted, width]."""
    return values.reshape(*valid.shape, values.shape[-1])[select_tokens(readout, valid)]
