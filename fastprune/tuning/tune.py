"""Layer-wise tuning of pruned models against the model they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from fastprune.calibration.recorder import record
from fastprune.calibration.trace import Trace
from fastprune.data import Samples
from fastprune.device import backward_attention, batch_tokens, device_of, evaluation_mode
from fastprune.distributed import ALONE, Group
from fastprune.progress import progress_bar
from fastprune.structure import find_sites
from fastprune.structure.declaration import anatomy
from fastprune.tuning.readout import find_readout, read_rows
from fastprune.tuning.solvers import Tuner, reconstruct_weights, scale_units
from fastprune.tuning.student import Buffers
from fastprune.tuning.teacher import Teacher
from fastprune.tuning.walk import Approach, SiteTuning, Walk

TUNERS: dict[str, Tuner | None] = {
    "weights": Tuner(reconstruct_weights, emptied=True),
    "scale": Tuner(scale_units),
    "bias": None,
    "none": None,
}
"""Ways to tune, by the name users give. None: no walk through the model is needed."""


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
    group: Group = ALONE,
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
        group: processes that each give their own samples; what is solved is summed over all, and
            all students come out alike, to the last bit.
        progress: show a progress bar.

    Returns:
        One entry per site visited.

    Raises:
        DataError: a trace that belongs to another model.
    """
    (outcomes,) = tune_together(
        teacher,
        [student],
        samples,
        tuner,
        trace=trace,
        metrics=metrics,
        approach=approach,
        batch_size=batch_size,
        dtype=dtype,
        group=group,
        progress=progress,
    )
    return outcomes


@torch.no_grad()
def tune_together(
    teacher: nn.Module,
    students: Sequence[nn.Module],
    samples: Samples,
    tuner: Tuner,
    *,
    trace: Trace | None = None,
    metrics: Mapping[str, Tensor] | None = None,
    approach: Approach | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    group: Group = ALONE,
    progress: bool = False,
) -> list[list[SiteTuning]]:
    """Tune several students of one teacher, side by side: what it does is found out once.

    Each student comes out as :func:`tune` leaves it, to the last bit; arguments and errors are
    those of it.

    Args:
        students: pruned models, none of them twice.

    Returns:
        Per student, one entry per site visited.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(teacher, *students))
        blocks = anatomy(teacher).blocks
        if trace is None:
            batches = samples.batches(batch_size, tokens=batch_tokens(teacher, dtype))
            trace = record(teacher, blocks, batches, dtype, tokens=sum(samples.lengths))
        trace.check_fit(blocks, find_sites(teacher))
        # The same kernels as in a pass that was recorded on the way to a backward pass.
        stack.enter_context(backward_attention(device_of(teacher), trace.dtype))
        # The first process has the longest sample, which tells most.
        readout = group.first(lambda: find_readout(teacher, blocks[-1], samples))
        read = read_rows(readout, trace, device_of(teacher))
        buffers, leader = Buffers(), Teacher(teacher, trace)
        walks = [
            Walk(
                teacher,
                student,
                tuner,
                trace,
                read=read,
                metrics=metrics or {},
                approach=approach,
                buffers=buffers,
                group=group,
            )
            for student in students
        ]
        for layer, block in enumerate(progress_bar("tune", blocks, enabled=progress, unit="layer")):
            going = [walk for walk in walks if not walk.over]
            wanted = {site.name: site for walk in going for site in walk.sites(block)}
            targets = leader.targets(layer, block, list(wanted.values()))
            for walk in going:
                walk.pass_block(layer, block, targets, last=layer == len(blocks) - 1)
    return [walk.outcomes for walk in walks]
