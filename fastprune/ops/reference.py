"""What each operation computes, in plain PyTorch and float64.

These are the oracle of the tests and the fallback where no native kernel is available. They
allocate freely and return float64; shapes are those of the wrappers in ``fastprune.ops``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mask_grad(
    x: Tensor, grad: Tensor, group: int, valid: Tensor | None, offsets: Tensor | None
) -> Tensor:
    """Per-sample sums of ``x * grad`` over tokens and the columns of each unit."""
    units = x.shape[-1] // group
    products = (x.double() * grad.double()).unflatten(-1, (units, group)).sum(-1)
    if offsets is not None:
        lengths = offsets.diff()
        samples = torch.arange(len(lengths), device=x.device).repeat_interleave(lengths)
        owned = products[offsets[0] : offsets[-1]]
        return products.new_zeros(len(lengths), units).index_add_(0, samples, owned)
    if valid is not None:
        products = products.masked_fill(~valid.bool()[..., None], 0.0)
    return products.sum(1)


def _symmetric(matrix: Tensor) -> Tensor:
    """Upper triangle mirrored: a product may round (i, j) and (j, i) differently."""
    return matrix.triu() + matrix.triu(1).T


def fisher_outer(grads: Tensor, sizes: list[int]) -> Tensor:
    """One flat ``G_s^T G_s`` after the other."""
    blocks = [_symmetric(g.T @ g).flatten() for g in grads.double().split(sizes, dim=1)]
    return torch.cat([grads.new_zeros(0, dtype=torch.float64), *blocks])


def gram(x: Tensor, columns: Tensor | None, valid: Tensor | None) -> Tensor:
    """``X_S^T X_S`` over the chosen columns and valid rows of ``x [rows, width]``."""
    rows = x.double() if valid is None else x[valid.bool()].double()
    if columns is not None:
        rows = rows[:, columns]
    return _symmetric(rows.T @ rows)


def greedy_rearrange(blocks: Tensor, sizes: list[int], masks: Tensor) -> Tensor:
    """Every site of every mask through :func:`_rearrange_site`."""
    out = (masks != 0).to(torch.float32)
    squares = blocks.double().split([n * n for n in sizes])
    for row in out:
        for block, mask in zip(squares, row.split(sizes), strict=True):
            n = len(mask)
            pruned = n - int(mask.sum())
            if 0 < pruned < n:
                mask.copy_(_rearrange_site(block.view(n, n), pruned))
    return out


def _rearrange_site(fisher: Tensor, pruned: int) -> Tensor:
    diagonal = fisher.diagonal()
    order = diagonal.argsort(stable=True).tolist()
    members = order[:pruned]
    r = fisher[members].sum(0)
    for unit in order[pruned:]:
        members.append(unit)
        r = r + fisher[unit]
        cost = diagonal[members] - 2 * r[members]
        removed = members.pop(int(cost.argmin()))
        r = r - fisher[removed]
    keep = torch.ones(len(diagonal), device=fisher.device)
    keep[members] = 0.0
    return keep


def tuning_system(gram: Tensor, weight: Tensor, cross: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Head-block sums of ``(W^T W) * gram`` and of ``rowsum(cross * W^T)``."""
    w = weight.double()
    units = w.shape[1] // group
    product = (w.T @ w) * gram.double()
    a = _symmetric(product.view(units, group, units, group).sum((1, 3)))
    b = (cross.double() * w.T).sum(1).view(units, group).sum(1)
    return a, b


def block_lstsq(
    systems: Tensor, rhs: Tensor, sizes: list[int], damping: float
) -> tuple[Tensor, Tensor]:
    """Every system through :func:`_solve_system`; failed ones give zeros."""
    x = torch.zeros_like(rhs, dtype=torch.float64)
    info = torch.zeros(len(sizes), dtype=torch.int32, device=rhs.device)
    blocks = systems.double().split([n * n for n in sizes])
    parts = zip(blocks, rhs.double().split(sizes), x.split(sizes), strict=True)
    for s, (a, b, out) in enumerate(parts):
        if len(b):
            info[s] = _solve_system(a.view(len(b), len(b)).tril(), b, damping, out)
    return x, info


def _solve_system(lower: Tensor, b: Tensor, damping: float, out: Tensor) -> int:
    ridge = (damping * lower.diagonal().mean()).expand(len(b))
    factor, info = torch.linalg.cholesky_ex(lower + lower.tril(-1).T + ridge.diag())
    if info == 0 and not factor.isfinite().all():
        info = 1 + (~factor.isfinite().all(dim=1)).nonzero()[0]
    if info == 0 and not b.isfinite().all():
        return -1
    if info == 0:
        out.copy_(torch.cholesky_solve(b, factor))
    return int(info)


def obs_greedy(
    inverse: Tensor, weight: Tensor, sizes: list[int], groups: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Every site through :func:`_remove_units`."""
    columns = [n * group for n, group in zip(sizes, groups, strict=True)]
    blocks = inverse.double().split([n * n for n in columns])
    order = torch.cat([torch.arange(n, dtype=torch.int32) for n in [0, *sizes]]).to(inverse.device)
    curve = torch.full_like(order, float("inf"), dtype=torch.float64)
    info = order.new_zeros(len(sizes))
    parts = [weight.double().split(columns), order.split(sizes), curve.split(sizes)]
    for s, (block, w, *out) in enumerate(zip(blocks, *parts, strict=True)):
        p = block.view(len(w), len(w)).tril()
        if len(w):
            info[s] = _remove_units(p + p.tril(-1).T, w, groups[s], *out)
    return order, curve, info


def _remove_units(p: Tensor, w: Tensor, group: int, order: Tensor, curve: Tensor) -> int:
    total, left = 0.0, torch.ones_like(order, dtype=torch.bool)
    for step in range(len(order)):
        r, white, cost = _removal_costs(p, w, group)
        cost = cost.where(left, float("inf"))
        u = int(cost.argmin())
        if cost[u].isinf():
            order[step:] = left.nonzero()[:, 0]
            return step + 1
        left[u], order[step], total = False, u, total + float(cost[u])
        curve[step] = total
        rows = torch.linalg.solve_triangular(r[u], p[u * group : (u + 1) * group], upper=False)
        p, w = p - rows.T @ rows, w - rows.T @ white[u]
    return 0


def _removal_costs(p: Tensor, w: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every unit the lower Cholesky factor R of its block, R^-1 W, and the cost of removal."""
    units = len(w) // group
    blocks = p.view(units, group, units, group).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    r, bad = torch.linalg.cholesky_ex(blocks)
    white = torch.linalg.solve_triangular(r, w.view(units, group, -1), upper=False)
    cost = white.square().sum((1, 2))
    usable = (bad == 0) & r.isfinite().flatten(1).all(1) & cost.isfinite()
    return r, white, cost.where(usable, float("inf"))


def trajectory_distance(features: Tensor, teacher: Tensor) -> Tensor:
    """``||S S^T - T T^T||_F^2`` per variant, for S and T with rows of unit length.

    The difference is ``U D^T + D U^T`` with ``D = S - T`` and ``U = T + D / 2``: nothing cancels.
    """
    t = _unit_rows(teacher)
    distances = [t.new_zeros(0)]
    for variant in features:
        d = _unit_rows(variant) - t
        product = (t + d / 2) @ d.T
        distances.append((product + product.T).square().sum()[None])
    return torch.cat(distances)


def _unit_rows(rows: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(rows.double(), dim=-1, keepdim=True)
    return rows.double() / length.where(length != 0, 1.0)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The state after one step of every path; see csrc/kernels/path_step.h."""
    k, a, n = (rate.double()[:, None] for rate in (kappa, alpha, nu))
    z, threshold = dual.double(), threshold.double()
    pull = (mask.double() - gate.double()) / n
    after = z + a * pull
    excess, missing = after - threshold, (threshold - z).clamp(min=0)
    fraction = torch.where(missing > 0, missing / (a * pull), 0.0).clamp(max=1)
    enters = (excess > 0) & crossing.isinf()
    return (
        mask.double() - k * a * (gradient.double() + pull),
        after,
        torch.where(excess > 0, k * excess, 0.0),
        torch.where(enters, step + fraction, crossing),
    )


def hard_concrete(
    alpha: Tensor, noise: Tensor, shares: Tensor, sizes: list[int], sublayers: bool, hidden: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A draw of gates and the expected sparsity; see csrc/kernels/hard_concrete.h."""
    a, u = alpha.double(), noise.clamp(1e-6, 1 - 1e-6).double()
    s = torch.sigmoid((torch.logit(u) + a) * 1.5)
    stretched = 1.2 * s - 0.1
    slopes = (1.8 * s * (1 - s)).where((stretched > 0) & (stretched < 1), 0.0)
    p = torch.sigmoid(a + math.log(11) / 1.5)
    sites = len(sizes)
    parts = p.split([*sizes, sites if sublayers else 0, hidden])
    mean = torch.stack([part.mean() if len(part) else p.new_ones(()) for part in parts])
    sublayer = parts[-2] if sublayers else p.new_ones(sites)
    kept = shares * mean[:sites] * sublayer  # of the weights of each site, before hidden ones go
    by_unit = shares * sublayer * mean[-1] / torch.tensor(sizes).to(p)
    weights = [by_unit.repeat_interleave(torch.tensor(sizes, device=p.device))]
    weights += [shares * mean[:sites] * mean[-1]] if sublayers else []
    weights += [(kept.sum() / hidden).expand(hidden)] if hidden else []
    sparsity_slopes = -torch.cat(weights) * p * (1 - p)
    return stretched.clamp(0, 1), slopes, mean, 1 - mean[-1] * kept.sum(), sparsity_slopes


def masked_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, eps: float, centered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows over their kept dimensions, mean and 1 / deviation; see csrc/kernels/masked_norm.h."""
    kept = gate != 0
    count = kept.sum().clamp(min=1)
    inside = x.double().where(kept, 0.0)
    mean = inside.sum(1) / count if centered else inside.new_zeros(len(x))
    deviation = (inside - mean[:, None]).where(kept, 0.0)
    variance = deviation.square().sum(1) / count
    rstd = (1 / (variance + eps).sqrt()).where(kept.any(), 0.0)
    shift = 0.0 if bias is None else bias.double()
    y = gate.double() * (weight.double() * deviation * rstd[:, None] + shift)
    return y.where(kept, 0.0), mean, rstd


def masked_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives by x, weight, bias and gate; see csrc/kernels/masked_norm.h."""
    kept, scale, r = gate != 0, gate.double(), rstd.double()[:, None]
    count = kept.sum().clamp(min=1)
    d = dy.double().where(kept, 0.0)
    h = ((x.double() - mean.double()[:, None]) * r).where(kept, 0.0)
    w = weight.double().where(kept, 0.0)
    b = torch.zeros_like(w) if bias is None else bias.double().where(kept, 0.0)
    g = d * scale * w
    common = g.sum(1, keepdim=True) / count if centered else 0.0
    dx = r * (g - common - h * (g * h).sum(1, keepdim=True) / count)
    sum_d, sum_dh = d.sum(0), (d * h).sum(0)
    dbias = torch.zeros_like(w) if bias is None else scale * sum_d
    return dx.where(kept, 0.0), scale * sum_dh, dbias, w * sum_dh + b * sum_d
