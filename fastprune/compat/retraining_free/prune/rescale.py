"""Mask rescaling: the least-squares fit of the units that stay, one layer after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration.recorder import record
from fastprune.calibration.replay import run_block
from fastprune.calibration.trace import Rows, Trace
from fastprune.compaction import compact
from fastprune.compat.retraining_free.prune.masks import by_site
from fastprune.device import device_of, evaluation_mode
from fastprune.parity import RELEASED_TUNER, released_scales
from fastprune.progress import progress_bar
from fastprune.structure import Site, find_sites, get_projection, set_projection
from fastprune.structure.declaration import anatomy
from fastprune.structure.masking import masked
from fastprune.structure.probe import SiteProbe
from fastprune.tuning.readout import read_rows
from fastprune.tuning.solvers import Update, apply_scales
from fastprune.tuning.system import LeastSquares
from fastprune.tuning.walk import Walk

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
    scales: dict[str, Tensor] = {}

    def solve(site: Site, system: LeastSquares, weight: Tensor, bias: Tensor | None) -> Update:
        scales[site.name] = released_scales(site, system, weight)
        return apply_scales(site, weight, scales[site.name])

    tuner = replace(RELEASED_TUNER, solve=solve, stop_at_failure=bug_compatible)
    blocks = anatomy(model).blocks
    student = _scaled_down(model, sites, masks)
    with evaluation_mode(model, student):
        trace = record(model, blocks, (dict(batch) for batch in dataloader), torch.float32)
        read = read_rows("first" if classification_task else "all", trace, device_of(model))
        walk = Walk(model, student, tuner, trace, read=read, metrics={})
        teacher = _MaskedTeacher(model, trace, teacher_masks)
        for layer, block in enumerate(progress_bar("rescale", blocks, unit="layer")):
            walk.pass_block(layer, block, teacher.targets(layer, block), last=block == blocks[-1])
            if walk.over:
                break
    for outcome in walk.outcomes:
        if outcome.failure is None:
            mask = masks[outcome.site]
            mask[mask != 0] *= scales[outcome.site].to(mask)
        else:
            _log.warning("%s keeps its mask: %s", outcome.site, outcome.failure)
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


class _MaskedTeacher:
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
