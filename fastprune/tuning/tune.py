"""Layer-wise tuning of a pruned model against the model it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastprune.calibration.recorder import record
from fastprune.calibration.trace import Trace
from fastprune.data import Samples
from fastprune.device import (
    backward_attention,
    batch_tokens,
    device_of,
    evaluation_mode,
    exact_products,
)
from fastprune.errors import NumericalError
from fastprune.progress import progress_bar
from fastprune.structure import Site, SiteKind, find_sites, get_projection, set_projection
from fastprune.structure.declaration import anatomy
from fastprune.tuning.readout import Readout, find_readout, select_tokens
from fastprune.tuning.solvers import SolveFailure, Tuner, reconstruct_weights, scale_units
from fastprune.tuning.student import Halt, Student
from fastprune.tuning.system import LeastSquares
from fastprune.tuning.teacher import Teacher

Approach = Callable[[Site], None]
"""Called with a site of the student just before the walk reaches it; may shrink it in place."""

# Tokens that tell how large the errors of a site are.
_TRIED = 512

TUNERS: dict[str, Tuner | None] = {
    "weights": Tuner(reconstruct_weights, emptied=True),
    "scale": Tuner(scale_units),
    "bias": None,
    "none": None,
}
"""Ways to tune, by the name users give. None: no walk through the model is needed."""


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


@torch.no_grad()
def tune(
    teacher: nn.Module,
    student: nn.Module,
    samples: Samples,
    tuner: Tuner,
    *,
    trace: Trace | None = None,
    metrics: Mapping[str, Tensor] | None = None,
    approach: Approach | None = None,
    batch_size: int | None = None,
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
        trace: what the teacher did with these samples, where it has been recorded already; batches
            and ``dtype`` are then those of the record.
        metrics: per site, [outputs, outputs], how errors of its output are weighed by solvers
            that make use of it; plain squares where there is none.
        approach: called with every site of the student before the walk reaches it, when all
            earlier ones are tuned. It may shrink that site in place and run the student as it
            likes, so long as it leaves no hooks behind.
        batch_size: samples per forward pass; by default as many as keep the device busy.
        dtype: autocast type of the forward passes, and type of what is summed up; sums and solves
            are float64.
        progress: show a progress bar.

    Returns:
        One entry per site visited.

    Raises:
        DataError: a trace that belongs to another model.
    """
    outcomes = []
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(teacher, student))
        blocks = anatomy(teacher).blocks
        if trace is None:
            batches = samples.batches(batch_size, tokens=batch_tokens(teacher, dtype))
            trace = record(teacher, blocks, batches, dtype, tokens=sum(samples.lengths))
        trace.check_fit(blocks, find_sites(teacher))
        # The same kernels as in a pass that was recorded on the way to a backward pass.
        stack.enter_context(backward_attention(device_of(teacher), trace.dtype))
        for outcome in _tune_sites(
            teacher, student, samples, tuner, trace, metrics or {}, approach, progress
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
    trace: Trace,
    metrics: Mapping[str, Tensor],
    approach: Approach | None,
    progress: bool,
) -> Iterator[SiteTuning]:
    blocks = anatomy(teacher).blocks
    sites = _tunable_sites(teacher, student, tuner)
    readout = find_readout(teacher, blocks[-1], samples)
    read = _read_tokens(readout, trace, device_of(student))
    leader, follower = Teacher(teacher, trace), Student(student, trace)
    for layer, block in enumerate(progress_bar("tune", blocks, enabled=progress, unit="layer")):
        last = layer == len(blocks) - 1
        here = [site for site in sites if site.block == block]
        targets = leader.targets(layer, block, here)
        # To enter a block is to compute its attention, which has its final width by then.
        _approach(here, "attention", approach)
        follower.enter(layer, block)
        narrowed = False
        for given in here:
            _approach([given], "ffn", approach)
            site = _as_left(student, given, tuner)
            if site is None:
                continue
            if last and read is not None and site.kind in tuner.tuned_as_read and not narrowed:
                narrowed = True
                follower.narrow(read)
                targets = {name: target.index_select(0, read) for name, target in targets.items()}
            target = targets[site.name]
            metric = metrics.get(site.name)
            halts = follower.halts(site)
            system, size = _sum_up(student, site, halts, target, metric)
            yield _solve(student, site, system, size, tuner)
        if not last:
            follower.leave()


def _tunable_sites(teacher: nn.Module, student: nn.Module, tuner: Tuner) -> list[Site]:
    """The sites to visit, in forward order, as wide as they are in the student."""
    left = (_as_left(student, site, tuner) for site in find_sites(teacher))
    return [site for site in left if site is not None]


def _as_left(student: nn.Module, site: Site, tuner: Tuner) -> Site | None:
    """A site as wide as it is in the student by now; None where there is nothing to tune."""
    if site.layer == 0 and site.kind == "attention" and not tuner.first_attention:
        return None
    left = {found.name: found for found in find_sites(student)}
    if site.name in left:
        return left[site.name]
    return replace(site, units=0) if tuner.emptied and site.kind == "ffn" else None


def _approach(sites: Iterable[Site], kind: SiteKind, approach: Approach | None) -> None:
    for site in sites:
        if approach is not None and site.kind == kind:
            approach(site)


def _read_tokens(readout: Readout, trace: Trace, device: torch.device) -> Tensor | None:
    """Which tokens of a trace the task reads: int64; None = all."""
    if readout == "all":
        return None
    flags = [select_tokens(readout, batch.valid)[batch.valid] for batch in trace.batches]
    return torch.cat(flags).nonzero().flatten().to(device)


def _sum_up(
    student: nn.Module,
    site: Site,
    halts: Iterable[Halt],
    target: Tensor,
    metric: Tensor | None,
) -> tuple[LeastSquares, Tensor]:
    """How far the student's sublayer is from its target [tokens, outputs], and why.

    Returns:
        The least-squares problem, and the sum of squares of the target (float64 scalar).
    """
    weight, bias = get_projection(student, site)
    system = LeastSquares(site.columns, site.outputs, weight.device, metric)
    size = torch.zeros((), dtype=torch.float64, device=weight.device)
    by_sums = False
    for halt in halts:
        wanted = target[halt.span].float()
        size += torch.linalg.vector_norm(wanted).double().square()
        error = wanted - halt.residual.float()
        if bias is not None:
            error -= bias
        if halt.span.start == 0:
            by_sums = _digits_to_spare(halt.x, error, weight)
        if not by_sums:
            error -= nn.functional.linear(halt.x, weight.to(halt.x.dtype))
        system.add(halt.x, error)
    if by_sums:
        system.subtract(weight)
    return system, size


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
