"""What is lost with each unit: its trajectory through the later layers, and the prediction.

Khaki & Plataniotis 2024, Algorithm 1, takes one forward pass of the whole model per unit. Here a
unit of block i costs what follows it in block i and the blocks after that, for as few tokens as are
compared, together with other units; the projection it is taken away from is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastprune.calibration.divergence import Prediction
from fastprune.data import Samples
from fastprune.device import cache_off, device_of, evaluation_mode, forward_tokens
from fastprune.errors import NumericalError, UnsupportedModelError
from fastprune.optin.distance import trajectory_distance
from fastprune.optin.drawing import draw_samples
from fastprune.optin.passage import Hidden, Known, Passage, Work
from fastprune.progress import progress_bar
from fastprune.structure import Site, get_projection


@dataclass(frozen=True)
class Losses:
    """What a model loses with each unit; both float64 [units of all sites] on the CPU, and >= 0.

    Attributes:
        trajectory: L_MD. With ``S`` and ``T`` the features of a layer without the unit and with it,
            every row of unit length, the sum over later layers of ``|S S^T - T T^T|^2`` (Frobenius).
        prediction: L_KD. 16 times the Kullback-Leibler divergence from the dense model's
            prediction, summed over samples; for regression and embeddings the squared error.
    """

    trajectory: Tensor
    prediction: Tensor


@torch.no_grad()
def score_units(
    model: nn.Module,
    sites: Sequence[Site],
    samples: Samples,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> Losses:
    """Take every unit away, one at a time, and see what changes.

    The features of a layer are the output of its FFN's projection, before residual and norm, at
    every valid token of some 768 drawn from the samples. Those of later layers count; those of the
    last one for its own units, too. No labels and no gradients are used.

    Args:
        model: on any device, in any mode; left as it was.
        sites: of the model.
        samples: whole ones are drawn until they hold 768 tokens; fewer are taken as they are.
        seed: of the draw.
        batch_size: a pass has as many tokens as so many samples, at most; by default as many as
            keep the device busy. Losses do not depend on it.
        dtype: autocast type of the passes. A half type rounds away much of what one unit does.
        progress: show a progress bar.

    Raises:
        UnsupportedModelError: hidden states of several widths.
        DataError: a task that no divergence is known for.
        NumericalError: losses that are not finite.
    """
    if len({site.outputs for site in sites}) > 1:
        raise UnsupportedModelError(
            f"the blocks of {type(model).__name__} do not follow each other at one width; use "
            "method obs or fisher"
        )
    drawn = draw_samples(samples, seed)
    limit = forward_tokens(model, dtype)
    if batch_size is not None:
        limit = min(limit, batch_size * max(drawn.widths))
    device, units = device_of(model), sum(site.units for site in sites)
    trajectory, prediction = torch.zeros(2, units, dtype=torch.float64, device=device)
    losses = Losses(trajectory, prediction)
    with (
        evaluation_mode(model),
        cache_off(model),
        progress_bar("score", total=units, enabled=progress, unit="unit") as bar,
    ):
        passage = Passage(model, sites, drawn, tokens=limit, dtype=dtype)
        dense = _Dense(passage)
        start = 0
        for site in sites:
            work = passage.work(site.layer, dense.entered[site.layer])
            weight, _ = get_projection(model, site)
            for some in _portions(site.units, passage.most):
                here = slice(start + some.start, start + some.stop)
                known = _without(site, some, weight, work)
                _follow(passage, dense, site.layer, known, losses, here)
                bar.update(some.stop - some.start)
            start += site.units
    found = Losses(losses.trajectory.cpu(), losses.prediction.cpu())
    _check_finite(found, sites)
    return found


class _Dense:
    """What the dense model does: the course that variants are compared with.

    Attributes:
        entered: by layer, what enters it.
        features: by layer, [rows, outputs]; None where an FFN has lost all its units.
        predictions: by batch.
    """

    def __init__(self, passage: Passage) -> None:
        self.entered: list[Hidden] = []
        self.features: list[Tensor | None] = []
        hidden = passage.start
        for layer in range(passage.blocks):
            self.entered.append(hidden)
            hidden, features = passage.go_and_look(layer, hidden)
            self.features.append(None if features is None else features[0])
        self.predictions: list[Prediction] = passage.ending.predictions(hidden)


def _without(
    site: Site, units: slice, weight: Tensor, work: dict[Site, list[Work]]
) -> dict[Site, list[Tensor]]:
    """Outputs of a block's projections, up to that of ``site``, with one unit missing from each."""
    count = units.stop - units.start
    columns = slice(units.start * site.group, units.stop * site.group)
    rows = weight[:, columns].T.unflatten(0, (count, site.group))
    known: dict[Site, list[Tensor]] = {}
    for other, batches in work.items():
        if other == site:
            known[site] = [_less(done, columns, rows) for done in batches]
            break
        known[other] = [done.y.expand(count, -1, -1) for done in batches]
    return known


def _less(done: Work, columns: slice, rows: Tensor) -> Tensor:
    """An output less the contribution of each of some units: [units, tokens, outputs].

    Args:
        done: what the projection did with all of them.
        columns: their inputs.
        rows: [units, group, outputs], the projection's weights for these, transposed.
    """
    x = done.x[:, columns].to(rows).unflatten(1, rows.shape[:2]).transpose(0, 1)
    return torch.baddbmm(done.y.to(rows)[None], x, rows, alpha=-1)


def _follow(
    passage: Passage, dense: _Dense, layer: int, known: Known, losses: Losses, here: slice
) -> None:
    """Follow variants from the block where a unit of theirs is missing, and add up their losses."""
    count = here.stop - here.start
    last = passage.blocks - 1
    hidden = [x.repeat(count, 1, 1) for x in dense.entered[layer]]
    if layer < last:
        hidden, known, layer = passage.go(layer, hidden, known), {}, layer + 1
    for later in range(layer, last + 1):
        hidden, features = passage.go_and_look(later, hidden, known)
        theirs = dense.features[later]
        if features is not None and theirs is not None:
            trajectory_distance(features, theirs, out=losses.trajectory[here])
    losses.prediction[here] = passage.ending.divergences(hidden, dense.predictions)


def _portions(units: int, most: int) -> Iterator[slice]:
    for start in range(0, units, most):
        yield slice(start, min(start + most, units))


def _check_finite(losses: Losses, sites: Sequence[Site]) -> None:
    finite = torch.isfinite(losses.trajectory + losses.prediction)
    for site, part in zip(sites, finite.split([site.units for site in sites]), strict=True):
        if not part.all():
            raise NumericalError(
                f"{site.name}: what the model loses with a unit is not finite; check the calibration "
                "samples and the weights, or use --dtype float32"
            )
