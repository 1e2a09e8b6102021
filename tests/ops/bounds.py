"""Error bounds of the operations: ``c * k * eps`` times the size of what is summed, per element.

A sum of k products in precision eps is off by at most ``(k + 1) * eps`` times the sum of their
magnitudes (Higham 2002, section 3.1). c = 2 covers the second-order terms and the final rounding.
Kernels may be better (float64 partial sums), not worse.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastprune.ops import reference

EPS32 = torch.finfo(torch.float32).eps
EPS64 = torch.finfo(torch.float64).eps


def _sum_bound(k: int, eps: float, magnitude: Tensor) -> Tensor:
    return 2 * (k + 2) * eps * magnitude


def mask_grad(
    x: Tensor, grad: Tensor, group: int, valid: Tensor | None = None, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    exact = reference.mask_grad(x, grad, group, valid, offsets)
    magnitude = reference.mask_grad(x.abs(), grad.abs(), group, valid, offsets)
    tokens = x.shape[0] if offsets is not None else x.shape[1]
    return exact, _sum_bound(tokens * group, EPS32, magnitude)


def fisher_outer(grads: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    magnitude = reference.fisher_outer(grads.abs(), sizes)
    return reference.fisher_outer(grads, sizes), _sum_bound(len(grads), EPS32, magnitude)


def gram(
    x: Tensor, dtype: torch.dtype, columns: Tensor | None = None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    magnitude = reference.gram(x.abs(), columns, valid)
    # f32 products over at most 256 rows, then the type of the result.
    chunks = -(-len(x) // 256)
    bound = _sum_bound(min(len(x), 256), EPS32, magnitude)
    return (
        reference.gram(x, columns, valid),
        bound + _sum_bound(chunks, torch.finfo(dtype).eps, magnitude),
    )


def tuning_system(gram: Tensor, weight: Tensor, cross: Tensor, group: int) -> Any:
    exact = reference.tuning_system(gram, weight, cross, group)
    magnitudes = reference.tuning_system(gram.abs(), weight.abs(), cross.abs(), group)
    k = weight.shape[0]
    # CUDA forms W^T W in f32 tiles, unless W is f64; block sums are f64 everywhere.
    eps = EPS32 if weight.is_cuda and weight.dtype != torch.float64 else EPS64
    return exact, tuple(
        _sum_bound(k + group * group, eps, m) + torch.finfo(gram.dtype).eps * m for m in magnitudes
    )


def trajectory_distance(features: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """D and U are rounded to float32 once, their products summed in float32, squares in float64.

    With lengths from float64 sums, D and U are off by 5 * (width + 4) * EPS64 of both unit rows at
    most, entry by entry: the squared lengths, the difference of the two, which enters four times,
    and the lengths of the reference.
    """
    rows, width = teacher.shape
    t, bounds = _unit_rows(teacher), [torch.zeros(0, dtype=torch.float64, device=features.device)]
    for variant in features:
        s = _unit_rows(variant)
        u, d, slack = (s + t) / 2, s - t, 5 * (width + 4) * EPS64 * (s.abs() + t.abs())
        entries = _and_transposed(u @ d.T).abs()
        size = _and_transposed(u.abs() @ d.abs().T)
        noise = _and_transposed(u.abs() @ slack.T + slack @ (d.abs() + slack).T)
        error = _sum_bound(2 * width, EPS32, size + noise) + noise
        squares = _sum_bound(rows * rows, EPS64, entries.square().sum())
        bounds.append(((2 * entries + error) * error).sum()[None] + squares)
    return reference.trajectory_distance(features, teacher), torch.cat(bounds)


def _unit_rows(rows: Tensor) -> Tensor:
    length = rows.double().square().sum(1, keepdim=True).sqrt()
    return torch.where(length == 0, 0.0, rows.double() / length)


def _and_transposed(matrix: Tensor) -> Tensor:
    return matrix + matrix.T


def path_step(
    mask: Tensor,
    dual: Tensor,
    gate: Tensor,
    crossing: Tensor,
    gradient: Tensor,
    threshold: Tensor,
    kappa: Tensor,
    alpha: Tensor,
    nu: Tensor,
    step: float,
) -> Any:
    """The state after the step with its bounds, and which units enter within rounding only.

    No result takes more than four roundings of half an eps each, of terms as large as those summed
    here; 4 eps is twice that. A fraction of a step is a quotient of a difference that is rounded
    once and a product of three roundings: again below 4 eps of itself, and it is at most 1.
    """
    inputs = (gradient, threshold, kappa, alpha, nu, step)
    exact = reference.path_step(mask, dual, gate, crossing, *inputs)
    k, a, n = (rate.double()[:, None] for rate in (kappa, alpha, nu))
    eps = 4 * torch.finfo(mask.dtype).eps
    pull = (mask.double().abs() + gate.double().abs()) / n
    mask_bound = eps * (mask.double().abs() + k * a * (gradient.double().abs() + pull))
    dual_bound = eps * (dual.double().abs() + a * pull)
    gate_bound = k * (dual_bound + eps * (exact[1].abs() + threshold.double()))
    crossing_bound = torch.full_like(crossing, eps) + 2 * EPS64 * step
    unsure = (exact[1] - threshold.double()).abs() <= dual_bound
    return exact, (mask_bound, dual_bound, gate_bound, crossing_bound), unsure


def hard_concrete(
    alpha: Tensor, noise: Tensor, sizes: list[int], shares: Tensor, sublayers: bool, hidden: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """A draw and the sparsity with their bounds, and which gates are clipped within rounding only.

    An exponential is off by two eps of itself, all else by half of one. So ``y`` is off by 3.5 and
    its power 3/2 by 6.3; ``s`` by a quarter of that and one more, 2.6; what is stretched from it by
    no more than 5, and the slope by no more than 7. p is off by 4 eps of itself.
    """
    exact = reference.hard_concrete(alpha, noise, shares, sizes, sublayers, hidden)
    eps = torch.finfo(alpha.dtype).eps
    p = torch.sigmoid(alpha.double() + math.log(11) / 1.5)
    spread = p * (1 - p)
    relative = 4 * eps + len(alpha) * EPS64
    gates, slopes, mean, sparsity, sparsity_slopes = exact
    limits = (
        torch.full_like(gates, 5 * eps),
        torch.full_like(slopes, 7 * eps),
        relative * mean,
        torch.full_like(sparsity, 3.2 * relative),
        # A product of up to four factors, one of which is p (1 - p), off by 5 eps.
        sparsity_slopes.abs() * (3.2 * relative + 2 * eps + 5 * eps / spread),
    )
    s = torch.sigmoid((torch.logit(noise.clamp(1e-6, 1 - 1e-6).double()) + alpha.double()) * 1.5)
    unsure = torch.minimum((1.2 * s - 0.1).abs(), (1.2 * s - 1.1).abs()) <= 5 * eps
    return exact, limits, unsure


def masked_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, eps: float, centered: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Sums of a row are float64; mean, deviations and their inverse are rounded to the type.

    A mean that is off moves every deviation by as much, and the variance by twice that times the
    deviations; the inverse deviation is off by half of what the variance is, relatively.
    """
    exact = reference.masked_norm(x, weight, bias, gate, eps, centered)
    _, mean, rstd = exact
    kept, unit = gate != 0, torch.finfo(x.dtype).eps
    count, sums = max(int(kept.sum()), 1), 2 * (int(kept.sum()) + 2) * EPS64
    inside = x.double().where(kept, 0.0)
    mean_bound = unit * mean.abs() + sums * inside.abs().sum(1) / count if centered else mean * 0
    deviation = (inside - mean[:, None]).abs().where(kept, 0.0)
    off = mean_bound[:, None] + unit * deviation
    variance_off = ((2 * deviation + off) * off).where(kept, 0.0).sum(1) / count
    variance_off += sums * deviation.square().sum(1) / count
    # d(v ** -0.5) = -0.5 v ** -1.5 dv, where v is never below eps; twice that.
    rstd_bound = rstd * (unit + variance_off * rstd.square())
    r = rstd[:, None]
    h_bound = off * r + deviation * rstd_bound[:, None] + unit * deviation * r
    scale, shift = weight.double().abs(), 0.0 if bias is None else bias.double().abs()
    size = scale * deviation * r + shift
    y_bound = (gate.double() * (2 * scale * h_bound + 4 * unit * size)).where(kept, 0.0)
    return exact, (y_bound, mean_bound, rstd_bound)


def masked_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centered: bool,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """h and g are off by two roundings of half an eps each, their means by that, by what float64
    sums are off by, and by one rounding more; dx takes four roundings of terms as large. Sums over
    rows are those of at most 64 products, which are off by three roundings, then float64.
    """
    given = (dy, x, weight, bias, gate, mean, rstd)
    exact = reference.masked_norm_backward(*given, centered)
    kept, unit, scale = gate != 0, torch.finfo(x.dtype).eps, gate.double()
    count, sums = max(int(kept.sum()), 1), 2 * (int(kept.sum()) + 2) * EPS64
    r = rstd.double()[:, None]
    d = dy.double().abs().where(kept, 0.0)
    h = ((x.double() - mean.double()[:, None]).abs() * r).where(kept, 0.0)
    w = weight.double().abs().where(kept, 0.0)
    b = torch.zeros_like(w) if bias is None else bias.double().abs().where(kept, 0.0)
    g = d * scale * w
    common = g.sum(1, keepdim=True) / count if centered else 0.0
    along = (g * h).sum(1, keepdim=True) / count
    size = (r * (g + common + h * along)).where(kept, 0.0)
    rows = 2 * (min(len(x), 64) + 5) * unit + 2 * (len(x) // 64 + 3) * EPS64
    by_one, by_h = d.sum(0), (d * h).sum(0)
    limits = (
        2 * (6 * unit + sums) * size,
        rows * scale * by_h,
        rows * scale * by_one * (bias is not None),
        rows * (w * by_h + b * by_one),
    )
    return exact, limits


def obs_sites(
    inverse: Tensor,
    weight: Tensor,
    sizes: list[int],
    groups: list[int],
    order: Tensor,
    curve: Tensor,
) -> Any:
    """The arguments of :func:`check_removals` for every site that has units."""
    columns = [size * group for size, group in zip(sizes, groups, strict=True)]
    squares = inverse.double().split([n * n for n in columns])
    parts = (squares, weight.split(columns), groups, order.split(sizes), curve.split(sizes))
    for p, w, group, removed, error in zip(*parts, strict=True):
        if len(removed):
            yield p.view(len(w), len(w)), w.double(), group, removed.tolist(), error


def check_removals(
    p: Tensor, w: Tensor, group: int, order: list[int], curve: Tensor, done: int | None = None
) -> None:
    """Every removal of ``order`` was the cheapest at its time, and ``curve`` sums exact costs.

    The costs are those of the op's own order, P and W updated in full, so that a choice between
    costs that differ by less than rounding does no harm.

    A factor of P and what is formed with it are off by about n * eps of their largest entries
    (Higham 2002, theorem 10.3), which costs divide by pivots as small as the smallest eigenvalue.
    """
    assert sorted(order) == list(range(len(order)))
    tolerance = 2 * (len(w) + 2) * torch.finfo(curve.dtype).eps * float(torch.linalg.cond(p))
    assert tolerance < 1e-3, "a bound that says nothing"
    left, total, scale = list(range(len(order))), 0.0, 0.0
    for unit, error in zip(order[:done], curve.tolist(), strict=False):
        rows = {u: slice(u * group, (u + 1) * group) for u in left}
        # Not solve(): on several threads, batched LU of this torch's MKL may never return.
        factors = torch.linalg.cholesky(torch.stack([p[r, r] for r in rows.values()]))
        solved = torch.cholesky_solve(torch.stack([w[r] for r in rows.values()]), factors)
        costs = {u: float((w[rows[u]] * x).sum()) for u, x in zip(left, solved, strict=True)}
        scale = max(scale, *costs.values())
        assert costs[unit] <= min(costs.values()) + tolerance * scale
        total += costs[unit]
        assert abs(error - total) <= tolerance * (total + scale)
        r = rows[unit]
        p, w = (
            p - p[:, r] @ torch.linalg.solve(p[r, r], p[r]),
            w - p[:, r] @ solved[left.index(unit)],
        )
        left.remove(unit)
