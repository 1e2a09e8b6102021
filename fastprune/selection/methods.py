"""Ways to choose units, by the name users give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastprune.data.tasks import IMAGE_TASKS
from fastprune.optin import Losses, mixed, mixed_as_released, score_units
from fastprune.selection.chooser import Chooser, Evidence
from fastprune.selection.nested import Nested
from fastprune.selection.obs import removal_paths
from fastprune.selection.paths import Paths
from fastprune.selection.ranked import Ranked, magnitudes, random_scores, ranked_paths
from fastprune.spp import (
    FISHER_STEPS,
    PASS_STEPS,
    FisherLoss,
    divergence_gradient,
    entry_order,
)
from fastprune.structure import Site


def _nothing(sites: Sequence[Site]) -> Tensor:
    return torch.zeros(sum(site.units for site in sites))


@dataclass(frozen=True)
class Method:
    """A way to choose units.

    Attributes:
        learn: find out what units are worth. None where that cannot be known beforehand, because
            units are chosen while the model is tuned: then :mod:`fastprune.kprune` does both, or
            :mod:`fastprune.cofi` where the method trains.
        trains: whether it trains the model, with labelled samples of any number.
        score: what ``learn`` goes by, where methods have that in common and it takes long; it is
            given the result.
        mask_fisher: whether it needs the Fisher blocks of the masks.
        mask_gradients: whether it needs the gradients of the masks, sample by sample.
        moments: whether it needs the second moments at the output projections.
        rearranges: whether masks are rearranged afterwards.
        inside_heads: whether it also chooses among dimensions inside heads.
        refuses: by task, why it does not go with it; the sentence follows the method's name.
        blind: chooses among sites before anything is known of them, to find out what can be met.
    """

    learn: Callable[[Evidence], Chooser] | None
    trains: bool = False
    score: Callable[[Evidence], Losses] | None = None
    mask_fisher: bool = False
    mask_gradients: bool = False
    moments: bool = False
    rearranges: bool = False
    inside_heads: bool = False
    refuses: Mapping[str, str] = field(default_factory=dict)
    blind: Callable[[Sequence[Site]], Chooser] = lambda sites: Ranked(_nothing(sites))

    @property
    def while_tuning(self) -> bool:
        """Whether selection and tuning are one."""
        return self.learn is None

    @property
    def of_masks(self) -> bool:
        """Whether it looks at gradients of masks, so that it matters whose they are."""
        return self.mask_fisher or self.mask_gradients


def _obs(plain: bool) -> Method:
    def learn(given: Evidence) -> Chooser:
        assert given.statistics is not None
        return Paths(removal_paths(given.model, given.sites, given.statistics, plain=plain))

    return Method(
        learn, moments=True, blind=lambda sites: Paths(ranked_paths(_nothing(sites), sites))
    )


def _fisher(given: Evidence) -> Chooser:
    assert given.statistics is not None
    return Ranked(given.statistics.importance())


def _losses(given: Evidence) -> Losses:
    return score_units(
        given.model,
        given.sites,
        given.samples,
        seed=given.seed,
        batch_size=given.batch_size,
        dtype=given.dtype,
        progress=given.progress,
    )


def _optin(
    mix: Callable[[Losses, Sequence[Site]], Tensor], refuses: Mapping[str, str] | None = None
) -> Method:
    def learn(given: Evidence) -> Chooser:
        assert given.losses is not None
        return Ranked(mix(given.losses, given.sites))

    return Method(learn, score=_losses, refuses=refuses or {})


def _spp(given: Evidence) -> Chooser:
    if given.order is not None:
        return Nested(given.order)
    assert given.statistics is not None
    fisher = FisherLoss(given.statistics.gradient_rows())
    return Nested(
        entry_order(
            fisher.gradient, fisher, given.sites, steps=FISHER_STEPS, progress=given.progress
        )
    )


def _spp_passes(given: Evidence) -> Chooser:
    assert given.statistics is not None
    fisher = FisherLoss(given.statistics.gradient_rows())
    passes = divergence_gradient(
        given.model,
        given.sites,
        given.samples,
        seed=given.seed,
        batch_size=given.batch_size,
        dtype=given.dtype,
    )
    with passes as gradient:
        return Nested(
            entry_order(gradient, fisher, given.sites, steps=PASS_STEPS, progress=given.progress)
        )


def _path(learn: Callable[[Evidence], Chooser]) -> Method:
    return Method(
        learn,
        mask_gradients=True,
        inside_heads=True,
        blind=lambda sites: Nested(torch.arange(len(_nothing(sites)))),
    )


_FOR_TEXT = "is what the released code does to text models; use method optin for images"
METHODS = {
    "obs": _obs(plain=False),
    "obs-plain": _obs(plain=True),
    "fisher": Method(_fisher, mask_fisher=True, rearranges=True, inside_heads=True),
    "optin": _optin(mixed),
    "optin-parity": _optin(
        mixed_as_released,
        dict.fromkeys(IMAGE_TASKS, _FOR_TEXT),
    ),
    "spp": _path(_spp),
    "spp-passes": _path(_spp_passes),
    "kprune": Method(learn=None),
    "cofi": Method(learn=None, trains=True),
    "magnitude": Method(lambda given: Ranked(magnitudes(given.model, given.sites))),
    "random": Method(
        lambda given: Ranked(random_scores(given.sites, given.seed)), inside_heads=True
    ),
}
"""``obs``: structured Optimal Brain Surgeon with errors weighed by the loss; ``obs-plain``: with
plain squares. ``fisher``: the diagonal Fisher information of the masks (Kwon et al. 2022, eq. 6),
then rearrangement. ``optin``: what changes in later layers and in the prediction where a unit is
taken away (Khaki & Plataniotis 2024); ``optin-parity``: with the factors of the released code.
``spp``: the order in which units enter a solution path, in nested masks, where the loss is the
Fisher information; ``spp-passes``: where it is the masked model's own. ``kprune``: sublayer after
sublayer, tuned at once (Park et al. 2024). ``cofi``: trained along with the weights (Xia et al.
2022). ``magnitude`` and ``random`` are baselines that read no
data."""
