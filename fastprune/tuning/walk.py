"""One student's walk through its blocks beside the teacher: summed up and solved at every site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastprune.calibration.trace import Trace
from fastprune.device import exact_products
from fastprune.distributed import ALONE, Group
from fastprune.errors import NumericalError
from fastprune.structure import Site, SiteKind, find_sites, get_projection, set_projection
from fastprune.tuning.copies import copy_projections
from fastprune.tuning.solvers import SolveFailure, Tuner
from fastprune.tuning.student import Buffers, Halt, Student
from fastprune.tuning.system import LeastSquares

Approach = Callable[[Site], None]
"""Called with a site of the student just before the walk reaches it; may shrink it in place."""

# Tokens that tell how large the errors of a site are.
_TRIED = 512


@dataclass(frozen=True)
class SiteTuning:
    """What tuning did to one site.

    Attributes:
        site: its name.
        relative_error: squared error of the sublayer output before tuning, relative to the
            teacher's output; None where it was not looked at.
        failure: why the site kept its untuned values; None where it was tuned.
    """

    site: str
    relative_error: float | None
    failure: str | None = None


class Walk:
    """Tunes a student in place, block by block: :meth:`pass_block` for each in turn.

    Attributes:
        outcomes: of the sites visited so far.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        tuner: Tuner,
        trace: Trace,
        *,
        read: Tensor | None,
        metrics: Mapping[str, Tensor],
        approach: Approach | None = None,
        buffers: Buffers | None = None,
        group: Group = ALONE,
    ) -> None:
        """Start before the first block.

        Args:
            teacher: for the sites that the student may have lost.
            student: in evaluation mode.
            tuner: how its sites are solved.
            trace: of the teacher.
            read: int64, which tokens of the trace the task reads; None = all.
            metrics: see :func:`fastprune.tuning.tune`.
            approach: likewise.
            buffers: memory shared with walks that take turns block by block.
            group: processes that walk with the tokens of their own samples.
        """
        self._student, self._tuner = student, tuner
        self._read, self._metrics, self._approach = read, metrics, approach
        self._group = group
        left = (_as_left(student, site, tuner) for site in find_sites(teacher))
        self._sites = [site for site in left if site is not None]
        self._follower = Student(student, trace, buffers)
        self.outcomes: list[SiteTuning] = []

    @property
    def over(self) -> bool:
        """Whether a failure has ended all tuning."""
        failed = any(outcome.failure is not None for outcome in self.outcomes)
        return failed and self._tuner.stop_at_failure

    def sites(self, block: str) -> list[Site]:
        """Those of a block that are tuned."""
        return [site for site in self._sites if site.block == block]

    def pass_block(
        self, layer: int, block: str, targets: Mapping[str, Tensor], *, last: bool
    ) -> None:
        """Tune the sites of a block, and go on to the next.

        Args:
            layer: number of the block.
            block: its path.
            targets: per site, [tokens, outputs], what its sublayer should add up to.
            last: whether no block follows.
        """
        here = self.sites(block)
        # To enter a block is to compute its attention, which has its final width by then.
        self._prepare(here, "attention")
        self._follower.enter(layer, block)
        read, narrowed = self._read if last else None, False
        for given in here:
            self._prepare([given], "ffn")
            site = _as_left(self._student, given, self._tuner)
            if site is None:
                continue
            if read is not None and not narrowed and site.kind in self._tuner.tuned_as_read:
                self._follower.narrow(read)
                narrowed = True
            target = targets[site.name]
            if read is not None and narrowed:
                target = target.index_select(0, read)
            system = LeastSquares(
                site.columns, site.outputs, target.device, self._metrics.get(site.name)
            )
            halts = self._follower.halts(site)
            size = _sum_up(self._student, site, halts, target, system, self._tuner)
            self.outcomes.append(self._solve(site, system, size))
            if self.over:
                return
        if not last:
            self._follower.leave()

    def _solve(self, site: Site, system: LeastSquares, size: Tensor) -> SiteTuning:
        """Solve what all processes have summed up, once for all of them."""
        group, student = self._group, self._student
        system.sum_over(group)
        group.sum_(size)
        outcome = group.first(lambda: _solve(student, site, system, size, self._tuner))
        copy_projections(student, [site], group)
        return outcome

    def _prepare(self, sites: Sequence[Site], kind: SiteKind) -> None:
        for site in sites:
            if self._approach is not None and site.kind == kind:
                self._approach(site)


def _as_left(student: nn.Module, site: Site, tuner: Tuner) -> Site | None:
    """A site as wide as it is in the student by now; None where there is nothing to tune."""
    if site.layer == 0 and site.kind == "attention" and not tuner.first_attention:
        return None
    left = {found.name: found for found in find_sites(student)}
    if site.name in left:
        return left[site.name]
    return replace(site, units=0) if tuner.emptied and site.kind == "ffn" else None


def _sum_up(
    student: nn.Module,
    site: Site,
    halts: Iterable[Halt],
    target: Tensor,
    system: LeastSquares,
    tuner: Tuner,
) -> Tensor:
    """Add to a problem how far the student's sublayer is from its target [tokens, outputs].

    Returns:
        The sum of squares of the target (float64 scalar).
    """
    weight, bias = get_projection(student, site)
    size = torch.zeros((), dtype=torch.float64, device=weight.device)
    by_sums = False
    for halt in halts:
        wanted = target[halt.span].float()
        size += torch.linalg.vector_norm(wanted).double().square()
        error = wanted - halt.residual.float()
        if bias is not None:
            error -= bias
        if halt.span.start == 0:
            by_sums = tuner.by_sums and _digits_to_spare(halt.x, error, weight)
        if not by_sums:
            error -= nn.functional.linear(halt.x, weight.to(halt.x.dtype))
        system.add(halt.x, error)
    if by_sums:
        system.subtract(weight)
    return size


def _digits_to_spare(x: Tensor, wanted: Tensor, weight: Tensor) -> bool:
    """Whether errors may be found by subtracting sums instead of token by token.

    That saves a product as large as the projection's own, and as many digits as the error is
    smaller than what is wanted. In float32 two can be spared; half types have none, and on a GPU
    the product is no cost that counts.
    """
    if not exact_products(x):
        return False
    step = max(1, len(x) // _TRIED)
    x, wanted = x[::step], wanted[::step]
    error = wanted - nn.functional.linear(x, weight)
    return bool(torch.linalg.vector_norm(error) > 1e-2 * torch.linalg.vector_norm(wanted))


def _solve(
    student: nn.Module, site: Site, system: LeastSquares, size: Tensor, tuner: Tuner
) -> SiteTuning:
    weight, bias = get_projection(student, site)
    relative = float(system.error) / max(float(size), torch.finfo(torch.float64).tiny)
    try:
        update = tuner.solve(site, system, weight, bias)
        set_projection(student, site, update.weight, update.bias)
    except (SolveFailure, NumericalError) as failure:
        return SiteTuning(site.name, relative, str(failure))
    return SiteTuning(site.name, relative)
