"""Mask rescaling: the least-squares fit of the units that stay, one layer after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.recorder import record
from fastprune.calibration.trace import Rows, Trace
from fastprune.compaction import compact
from fastprune.compat.retraining_free.prune.masks import by_site
from fastprune.device import device_of, evaluation_mode
from fastprune.parity import released_scales
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites, get_projection, set_projection
from fastprune.structure.declaration import anatomy
from fastprune.structure.masking import masked
from fastprune.structure.probe import SiteProbe
from fastprune.tuning.readout import select_tokens
from fastprune.tuning.replay import run_block
from fastprune.tuning.solvers import SolveFailure, apply_scales
from fastprune.tuning.student import Student
from fastprune.tuning.system import LeastSquares

_log = logging.getLogger(__name__)


@torch.no_grad()
def rescale_mask(
    model: nn.Module,
    config: Any,
    teacher_head_mask: Tensor,
    teacher_neuron_mask: Tensor,
    student_head_mask: Tensor,
    student_neuron_mask: Tensor,
    dataloader: Iterable[Mapping[str, Tensor]],
    classification_task: bool = False,
    *,
    bug_compatible: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rescale the units that stay (Kwon et al. 2022, section 4.3).

    In one pass of the teacher and one of the student over the samples, where the original runs
    every layer three times each. A sublayer's target is what it adds up to in the teacher; that of
    an FFN is computed with all its filters, since the original reads its input before the mask
    gets there. The first attention is left as it is.

    Args:
        model: in which units are masked; it is not changed.
        config: not read; kept for its place.
        teacher_head_mask: ``[layers, heads]``, of the model to imitate.
        teacher_neuron_mask: ``[layers, filters]``, likewise.
        student_head_mask: ``[layers, heads]``, nonzero = kept.
        student_neuron_mask: ``[layers, filters]``, likewise.
        dataloader: mini-batches; read once, labels are not used.
        classification_task: whether the last FFN is fitted on the first token alone.
        bug_compatible: end all rescaling at the first sublayer that cannot be solved. Otherwise
            that one alone keeps its mask, and a warning is logged.

    Returns:
        ``(head_mask, neuron_mask)``: new masks with the scales in place of the ones.

    Raises:
        FastpruneError: masks that do not fit the model.
    """
    sites = find_sites(model)
    teacher_masks = by_site(sites, teacher_head_mask, teacher_neuron_mask)
    rescaled = student_head_mask.clone(), student_neuron_mask.clone()
    masks = by_site(sites, *rescaled)
    blocks = anatomy(model).blocks
    with evaluation_mode(model):
        batches = (dict(batch) for batch in dataloader)
        trace = record(model, blocks, batches, torch.float32)
        student = _Fit(_scaled_down(model, sites, masks), trace)
        teacher = _Teacher(model, trace, teacher_masks)
        for layer, block in enumerate(progress_bar("rescale", blocks, unit="layer")):
            targets = teacher.targets(layer, block)
            student.enter(layer, block)
            for site in student.sites(layer, block):
                first = classification_task and site.kind == "ffn" and block == blocks[-1]
                try:
                    scales = student.solve(site, targets[site.name], first_token=first)
                except SolveFailure as failure:
                    _log.warning("layer %d, %s: not rescaled: %s", layer, site.kind, failure)
                    if bug_compatible:
                        return rescaled
                    continue
                mask = masks[site.name]
                mask[mask != 0] *= scales.to(mask)
            if block != blocks[-1]:
                student.leave()
    return rescaled


def _scaled_down(model: nn.Module, sites: list[Site], masks: Mapping[str, Tensor]) -> nn.Module:
    """The model without the units whose mask is zero; other mask values are in its weights."""
    small = compact(model, masks)
    for site in find_sites(small):
        weight, _ = get_projection(small, site)
        mask = masks[site.name]
        kept = mask[mask != 0].to(weight)
        if not (kept == 1).all():
            set_projection(small, site, weight * kept.repeat_interleave(site.group))
    return small


class _Teacher:
    """Walks a model under masks through its blocks: :meth:`targets` is asked for each in turn."""

    def __init__(self, model: nn.Module, trace: Trace, masks: Mapping[str, Tensor]) -> None:
        self._model, self._trace, self._masks = model, trace, masks
        self._sites = find_sites(model)
        self._hidden = trace.hidden

    def targets(self, layer: int, block: str) -> dict[str, Tensor]:
        """What the sublayers of a block add up to, [tokens, outputs], by site."""
        here = [site for site in self._sites if site.block == block]
        tokens = len(self._hidden)
        found = {site.name: Rows(tokens) for site in here}
        left = Rows(tokens)
        module = self._model.get_submodule(block)
        with ExitStack() as stack:
            # The probes come first and see the inputs of projections before they are masked.
            probes = [stack.enter_context(SiteProbe(self._model, site)) for site in here]
            stack.enter_context(masked(self._model, {s.name: self._masks[s.name] for s in here}))
            for batch in self._trace.batches:
                entered = batch.unpack(self._hidden[batch.span])
                left.append(batch.pack(run_block(module, entered, batch.calls[layer])))
                for site, probe in zip(here, probes, strict=True):
                    if site.kind == "attention":
                        target = batch.pack(probe.sublayer_output())
                    else:
                        x, residual = batch.pack(probe.input), batch.pack(probe.residual)
                        target = nn.functional.linear(x, *get_projection(self._model, site))
                        target += residual
                    found[site.name].append(target)
        self._hidden = left.filled()
        return {name: rows.filled() for name, rows in found.items()}


class _Fit:
    """A pruned model on its way through its blocks, rescaled site by site."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self._model = model.eval()
        self._walk = Student(model, trace)
        flags = [select_tokens("first", batch.valid)[batch.valid] for batch in trace.batches]
        self._first = torch.cat(flags).nonzero().flatten().to(device_of(model))
        self.enter, self.leave = self._walk.enter, self._walk.leave

    def sites(self, layer: int, block: str) -> list[Site]:
        """What is left to rescale in a block; the original leaves out the first attention."""
        here = [site for site in find_sites(self._model) if site.block == block]
        return [site for site in here if (layer, site.kind) != (0, "attention")]

    def solve(self, site: Site, target: Tensor, *, first_token: bool) -> Tensor:
        """Fit the site to its target [tokens, outputs] and rescale it: the scales, [units].

        Raises:
            SolveFailure: the site stays as it is.
        """
        if first_token:
            self._walk.narrow(self._first)
            target = target.index_select(0, self._first)
        weight, bias = get_projection(self._model, site)
        system = LeastSquares(site.columns, site.outputs, weight.device)
        for halt in self._walk.halts(site):
            produced = nn.functional.linear(halt.x, weight, bias)
            system.add(halt.x, target[halt.span] - halt.residual - produced)
        scales = released_scales(site, system, weight)
        set_projection(self._model, site, apply_scales(site, weight, scales).weight)
        return scales
