"""The parity solver against the released procedure written out: per-unit outputs, stacked rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsmr
from tiny_models import tiny

from fastprune import find_sites
from fastprune.parity import lsmr_scales
from fastprune.tuning.solvers import SolveFailure
from fastprune.tuning.system import LeastSquares

ATTENTION, FFN = find_sites(tiny("bert"))[:2]


def problem(site, units, group, noise=0.3):
    generator = torch.Generator().manual_seed(units)
    x = torch.randn(300, units * group, generator=generator)
    weight = torch.randn(9, units * group, generator=generator)
    bias = torch.randn(9, generator=generator)
    wanted = torch.linspace(0.5, 1.5, units).repeat_interleave(group)
    target = x @ (weight * wanted).T + bias + noise * torch.randn(300, 9, generator=generator)
    return replace(site, units=units, group=group, outputs=9), x, weight, bias, target


def released(x, weight, bias, target, group, *, constant):
    """Materialise every unit's output, form the normal equations, hand them to LSMR around one."""
    units = x.shape[1] // group
    columns = [
        (x[:, u * group : (u + 1) * group] @ weight[:, u * group : (u + 1) * group].T).flatten()
        for u in range(units)
    ]
    if constant:
        columns.append(torch.ones(target.numel()))
    a = torch.stack(columns, dim=1).double()
    b = (target - bias).flatten().double()
    ata, atb = a.T @ a, a.T @ b
    ata, atb = ata.numpy().astype(np.float32), (atb - ata.sum(1)).numpy().astype(np.float32)
    if len(atb) == 1:
        return 1 + torch.from_numpy(atb / ata[0, 0]), 1
    deviation, stop_reason, *_ = lsmr(ata, atb, damp=1.0, maxiter=5 * len(atb))
    return 1 + torch.from_numpy(deviation)[:units], stop_reason


@pytest.mark.parametrize(
    ("site", "units", "group"),
    [
        (ATTENTION, 4, 8),
        (ATTENTION, 12, 4),
        (ATTENTION, 1, 8),
        (FFN, 11, 1),
        (FFN, 40, 1),
        (FFN, 1, 1),
    ],
)
def test_scales_are_those_of_the_released_procedure(site, units, group):
    site, x, weight, bias, target = problem(site, units, group)
    system = LeastSquares(x.shape[1], 9, x.device)
    system.add(x, target - x @ weight.T - bias)
    expected, stop_reason = released(
        x, weight, bias, target, group, constant=site.kind == "attention"
    )
    if stop_reason > 2:
        with pytest.raises(SolveFailure, match=f"reason {stop_reason}"):
            lsmr_scales(site, system, weight, bias)
        return
    update = lsmr_scales(site, system, weight, bias)
    scales = (update.weight / weight.double()).mean(0).view(units, group).mean(1)
    # Both stop at LSMR's default tolerance of 1e-6 times the condition of the matrix.
    assert (scales - expected).abs().max() < 1e-3
    assert update.bias is None


def test_scales_out_of_proportion_are_a_failure():
    site, x, weight, bias, _ = problem(FFN, 1, 1)
    system = LeastSquares(1, 9, x.device)
    system.add(x, x @ (20 * weight).T)
    with pytest.raises(SolveFailure, match="out of all proportion"):
        lsmr_scales(site, system, weight, bias)
