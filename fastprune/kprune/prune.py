"""K-prune: selecting the units of one sublayer after the other, each time tuning it at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastprune.budget import Budget, Prices, price_sites
from fastprune.calibration.trace import Trace
from fastprune.compaction import compact
from fastprune.compaction.surgery import shrink_
from fastprune.data import Samples
from fastprune.distributed import ALONE, Group
from fastprune.kprune.reference import Reference
from fastprune.kprune.threshold import keep_best
from fastprune.progress import progress_bar
from fastprune.report import Stopwatch
from fastprune.selection.search import check_reachable
from fastprune.structure import Site, find_sites
from fastprune.tuning import TUNERS, SiteTuning, tune

LAMBDA = 2.5e-4
"""Weight of representational knowledge beside that of predictions, as released."""


@dataclass(frozen=True)
class KPruned:
    """What K-prune makes of a model.

    Attributes:
        model: physically smaller and tuned.
        masks: per site of the dense model, float32 [units] on the CPU, 1 = kept.
        tuning: one entry per site tuned.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    tuning: list[SiteTuning]


def kprune(
    dense: nn.Module,
    samples: Samples,
    budget: Budget,
    *,
    lam: float = LAMBDA,
    mu: float | None = None,
    seq_len: float | None = None,
    reference: Reference | None = None,
    trace: Trace | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    watch: Stopwatch | None = None,
    group: Group = ALONE,
    progress: bool = False,
) -> KPruned:
    """Prune a model to a budget with K-prune (Park et al., ICLR 2024).

    For every sublayer, first to last: score the units of this one and of all later ones with the
    model as it is by then, ``S = (K_pred + lam K_rep) / price`` (heads times ``mu``); set the one
    threshold at which all of them fit into what is left of the budget; remove from this sublayer,
    and from no other, what lies below it; re-solve its output projection against the dense model's
    sublayer output. See :class:`fastprune.kprune.scores.Scores` for both kinds of knowledge.

    With L layers this takes up to 2L forward and backward passes over the samples *for every
    budget*, where other methods take one for all. The first is shared, and repeated only once
    something has been removed.

    Where this is not the released code:

    - While nothing has been removed, student and dense model are the same, and the gradient of
      their divergence is zero, or rounding: the released code then decides by representation
      alone. Here units are scored by half the curvature of that divergence (its true Fisher
      information): what removing a column costs, to second order. That is a divergence; a
      squared gradient is the square of one, so ``lam`` weighs less at the first sublayer.
    - Normal equations are summed and solved in float64, with a ridge and, where there is one, a
      free bias; the released code solves them in float32 with neither.
    - A sublayer that cannot be solved is reported; there, its tuning is skipped in silence.
    - In the last layer of a classifier that reads one token, sublayers are tuned on it alone, as
      everywhere in fastprune.
    - The budget is a limit, rounding included. Sublayers may lose all their units.

    Args:
        dense: the model to prune; not changed. Its weights should be float32.
        samples: calibration samples; labels are not used. Padding contributes nothing.
        budget: what may be spent.
        lam: weight of representational knowledge.
        mu: weight of heads; by default their width, which turns a mean over columns into a sum. It
            is 64 as released, for heads of 64 columns.
        seq_len: tokens at which MACs are counted; by default the samples' mean length.
        reference: what the dense model does with these samples, where that is known already.
        trace: the record of its sublayer outputs, likewise.
        batch_size: samples per forward pass; by default as many as keep the device busy. Not used
            where there is a ``reference`` and a ``trace``.
        seed: of sampled targets. Not used where there is a ``reference``.
        dtype: autocast type of the passes, likewise.
        watch: times scoring as ``"search"``.
        group: processes that each give their own samples, in whole mini-batches of 32, and a
            ``reference`` made by the same group.
        progress: show a progress bar.

    Raises:
        BudgetError: a budget that nothing fits into; names the smallest reachable one.
        DataError: a trace that belongs to another model, or a task without a divergence.
        NumericalError: activations or gradients that are not finite.
    """
    sites = find_sites(dense)
    prices = price_sites(sites, budget.kind, seq_len or samples.mean_length)
    check_reachable(prices, [budget], min(prices.per_unit))
    if reference is None:
        reference = Reference(
            dense, samples, batch_size=batch_size, seed=seed, dtype=dtype, group=group
        )
    tuner = TUNERS["weights"]
    assert tuner is not None
    student = compact(dense, {})
    with progress_bar("kprune", total=len(sites), enabled=progress, unit="sublayer") as bar:
        selection = _Selection(student, reference, prices, budget, lam, mu, group)

        def approach(site: Site) -> None:
            with (watch or Stopwatch()).stage("search"):
                selection.decide(site)
            bar.update()

        tuning = tune(
            dense,
            student,
            samples,
            tuner,
            trace=trace,
            approach=approach,
            batch_size=batch_size,
            dtype=dtype,
            group=group,
        )
    _restore_modes(student, dense)
    return KPruned(student, selection.masks, tuning)


class _Selection:
    """Decides on the sites of a student one by one, and shrinks them."""

    def __init__(
        self,
        student: nn.Module,
        reference: Reference,
        prices: Prices,
        budget: Budget,
        lam: float,
        mu: float | None,
        group: Group,
    ) -> None:
        self._student, self._reference, self._prices = student, reference, prices
        self._limit = budget.limit(prices.dense)
        self._lam, self._group = lam, group
        factors = [(mu or site.group) if site.kind == "attention" else 1 for site in prices.sites]
        self._per_price = [
            factor / price for factor, price in zip(factors, prices.per_unit, strict=True)
        ]
        self.masks: dict[str, Tensor] = {}

    def decide(self, site: Site) -> None:
        """Keep the units of the next site that are worth it, and remove the others."""
        decided = [int(mask.sum()) for mask in self.masks.values()]
        assert site.name == self._prices.sites[len(decided)].name
        worth = self._worth(len(decided))
        mask = self._group.first(lambda: keep_best(worth, self._prices, decided, self._limit)[0])
        self.masks[site.name] = torch.from_numpy(mask).float()
        shrink_(self._student, {site.name: self.masks[site.name]})

    def _worth(self, start: int) -> NDArray[np.float64]:
        """What each unit of the sites from ``start`` on is worth at its price."""
        sites = self._prices.sites[start:]
        units = torch.tensor([site.units for site in sites])
        if all(mask.all() for mask in self.masks.values()):
            scores = self._reference.scores  # the student is still the dense model
        else:
            scores = self._reference.score(self._student, sites)
        knowledge = scores.predictive + self._lam * scores.representative
        per_price = torch.tensor(self._per_price[start:], dtype=torch.float64)
        return (knowledge[-int(units.sum()) :] * per_price.repeat_interleave(units)).numpy()


def _restore_modes(student: nn.Module, dense: nn.Module) -> None:
    """Modules that took the place of others during the walk were made in evaluation mode."""
    training = {name: module.training for name, module in dense.named_modules()}
    for name, module in student.named_modules():
        module.training = training.get(name, module.training)
