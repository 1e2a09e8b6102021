"""What is lost with each unit: its trajectory through the later layers, and the prediction.

Khaki & Plataniotis 2024, Algorithm 1, takes one forward pass of the whole model per unit. Here a
unit of block i costs what follows it in block i and the blocks after that, for as few tokens as are
compared, together with other units; the projection it is taken away from is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastprune import ops
from fastprune.calibration.divergence import Prediction
from fastprune.data import Samples
from fastprune.device import cache_off, evaluation_mode, forward_tokens
from fastprune.errors import NumericalError
from fastprune.optin.drawing import draw_samples
from fastprune.optin.losses import Losses
from fastprune.optin.passage import Hidden, Passage, Work
from fastprune.optin.whole import WholeTrial
from fastprune.progress import progress_bar
from fastprune.structure import Site, get_projection
from fastprune.structure.declaration import anatomy


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
    every valid token of whole samples that hold 768 of them. Those of later layers count; those of
    the last one for its own units, too. No labels and no gradients are used.

    Args:
        model: on any device, in any mode, weights float32 or of a half type; left as it was.
        sites: of the model.
        samples: some are drawn of these; all, where they have fewer tokens.
        seed: of the draw.
        batch_size: a pass has no more tokens than so many samples; by default as many as keep the
            device busy. Losses do not depend on it.
        dtype: autocast type of the passes. A half type rounds away much of what one unit does.
        progress: show a progress bar.

    Returns:
        of the units of all sites, on the CPU.

    Raises:
        DataError: a task that no divergence is known for.
        NumericalError: losses that are not finite.
    """
    drawn = draw_samples(samples, seed)
    tokens = forward_tokens(model, dtype)
    if batch_size is not None:
        tokens = min(tokens, batch_size * max(drawn.widths))
    with evaluation_mode(model), cache_off(model):
        trial = _trial(model, sites, drawn, tokens=tokens, dtype=dtype)
        total = sum(site.units for site in sites)
        found = []
        with progress_bar("score", total=total, enabled=progress, unit="unit") as bar:
            for site in sites:
                for start in range(0, site.units, trial.most):
                    units = slice(start, min(start + trial.most, site.units))
                    found.append(trial.losses(site, units))
                    bar.update(units.stop - units.start)
    # Read back once: until here a GPU has waited for nothing.
    losses = Losses(
        torch.cat([some.trajectory for some in found]).cpu(),
        torch.cat([some.prediction for some in found]).cpu(),
    )
    _check_finite(losses, sites)
    return losses


def _trial(
    model: nn.Module, sites: Sequence[Site], samples: Samples, *, tokens: int, dtype: torch.dtype
) -> Trial | WholeTrial:
    """Whichever way to take units away the model allows."""
    if anatomy(model).stacked and len({site.outputs for site in sites}) == 1:
        return Trial(model, sites, samples, tokens=tokens, dtype=dtype)
    return WholeTrial(model, sites, samples, dtype=dtype)


class Trial:
    """Takes units away from a model, several at a time and each from a variant of its own.

    Attributes:
        most: how many fit into a pass.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        samples: Samples,
        *,
        tokens: int,
        dtype: torch.dtype,
    ) -> None:
        """Run the dense model.

        Args:
            model: in evaluation mode, keeping no keys and values.
            sites: of the model.
            samples: that it is tried on.
            tokens: most tokens of a pass.
            dtype: autocast type.
        """
        self._model = model
        self._passage = Passage(model, sites, samples, tokens=tokens, dtype=dtype)
        self.most = self._passage.most
        self._entered: list[Hidden] = []
        self._features: list[Tensor | None] = []
        hidden = self._passage.start
        for layer in range(self._passage.blocks):
            self._entered.append(hidden)
            hidden, features = self._passage.go_and_look(layer, hidden)
            self._features.append(None if features is None else features[0])
        self._predictions: list[Prediction] = self._passage.ending.predictions(hidden)
        self._layer = -1
        self._work: dict[Site, list[Work]] = {}

    def losses(self, site: Site, units: slice) -> Losses:
        """Of some units of a site; on the device."""
        count = units.stop - units.start
        layer, last = site.layer, self._passage.blocks - 1
        known = self._without(site, units)
        hidden = [x.repeat(count, 1, 1) for x in self._entered[layer]]
        trajectory = torch.zeros(count, dtype=torch.float64, device=hidden[0].device)
        if layer < last:
            hidden, known, layer = self._passage.go(layer, hidden, known), {}, layer + 1
        for later in range(layer, last + 1):
            hidden, features = self._passage.go_and_look(later, hidden, known)
            dense = self._features[later]
            if features is not None and dense is not None:
                ops.trajectory_distance(features, dense, out=trajectory)
        return Losses(trajectory, self._passage.ending.divergences(hidden, self._predictions))

    def _without(self, site: Site, units: slice) -> dict[Site, list[Tensor]]:
        """Outputs of a block's projections up to that of ``site``, each less one of the units."""
        if self._layer != site.layer:
            self._layer = site.layer
            self._work = self._passage.work(site.layer, self._entered[site.layer])
        count = units.stop - units.start
        columns = slice(units.start * site.group, units.stop * site.group)
        weight, _ = get_projection(self._model, site)
        rows = weight[:, columns].T.unflatten(0, (count, site.group))
        known: dict[Site, list[Tensor]] = {}
        for other, batches in self._work.items():
            if other == site:
                known[site] = [_less(done, columns, rows) for done in batches]
                break
            known[other] = [done.y.expand(count, -1, -1) for done in batches]
        return known


def _less(done: Work, columns: slice, rows: Tensor) -> Tensor:
    """An output less what each of some units adds to it: [units, tokens, outputs].

    Args:
        done: what the projection did with all units.
        columns: the inputs that are these units.
        rows: [units, group, outputs], the projection's weights for them, transposed.
    """
    x = done.x[:, columns].to(rows).unflatten(1, rows.shape[:2]).transpose(0, 1)
    return torch.baddbmm(done.y.to(rows)[None], x, rows, alpha=-1)


def _check_finite(losses: Losses, sites: Sequence[Site]) -> None:
    finite = torch.isfinite(losses.trajectory + losses.prediction)
    for site, part in zip(sites, finite.split([site.units for site in sites]), strict=True):
        if not part.all():
            raise NumericalError(
                f"{site.name}: what is lost with one of its units is not finite; check the "
                "calibration samples and the weights, or use --dtype float32"
            )
