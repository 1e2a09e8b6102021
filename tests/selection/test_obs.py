"""Removal paths against greedy removal with an explicit least-squares solution at every step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

from fastprune import collect_statistics, find_sites
from fastprune.numerics import RIDGE
from fastprune.selection.obs import removal_paths
from fastprune.structure import get_projection


def columns_of(units, group):
    return torch.tensor([u * group + c for u in units for c in range(group)], dtype=torch.long)


def least_error(gram, weight, metric, removed, group):
    """What is left when the kept rows of ``weight`` are re-solved: tr(D^T gram D metric)."""
    gone = columns_of(removed, group)
    kept = torch.tensor([c for c in range(len(gram)) if c not in set(gone.tolist())]).long()
    change = torch.zeros_like(weight)
    change[gone] = -weight[gone]
    if len(kept):
        rhs = gram[kept][:, gone] @ weight[gone]
        change[kept] = torch.linalg.solve(gram[kept][:, kept], rhs)
    return float(torch.trace(change.T @ gram @ change @ metric))


def greedy(gram, weight, metric, site):
    removed, errors = [], [0.0]
    while len(removed) < site.units:
        left = [u for u in range(site.units) if u not in removed]
        costs = [least_error(gram, weight, metric, [*removed, u], site.group) for u in left]
        removed.append(left[int(np.argmin(costs))])
        errors.append(min(costs))
    return removed, errors[::-1]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_unit_removed_is_the_one_that_costs_least(family):
    model, samples = tiny(family).float(), samples_for(family)
    sites = find_sites(model)
    statistics = collect_statistics(model, samples)
    paths = removal_paths(model, sites, statistics)
    inputs, outputs = statistics.kronecker_factors()
    for i in (0, 1, len(sites) - 1):
        site, path = sites[i], paths[i]
        weight, bias = get_projection(model, site)
        weight = weight.detach().double().T
        gram = inputs.about_zero(i) if bias is None else inputs.about_mean(i)
        gram.diagonal().add_(RIDGE * inputs.about_zero(i).diagonal().mean())
        metric = outputs[i].double() / (2 * float(inputs.tokens[i]) * statistics.samples)
        removed, errors = greedy(gram, weight, metric, site)
        # The floor under the metric is all that differs.
        assert path.errors == pytest.approx(errors, rel=1e-2, abs=1e-3 * errors[0])
        assert path.order.tolist()[: site.units // 2] == removed[: site.units // 2]
        assert path.errors[0] == pytest.approx(
            float(torch.trace(weight.T @ gram @ weight @ metric)), rel=1e-2
        )


def test_errors_start_at_nothing_and_grow_with_every_unit():
    model, samples = tiny("bert").float(), text_samples("classification", 16)
    sites = find_sites(model)
    statistics = collect_statistics(model, samples)
    paths = removal_paths(model, sites, statistics)
    assert all((np.diff(path.errors) <= 1e-12).all() for path in paths)
    assert all(path.errors[-1] == 0 and math.isfinite(path.errors[0]) for path in paths)


def test_dead_and_constant_units_go_first_and_cost_nothing():
    model, samples = tiny("bert").float(), text_samples("classification", 16)
    sites = find_sites(model)
    ffn = model.bert.encoder.layer[1].intermediate.dense
    ffn.weight.data[[3, 11]] = 0
    ffn.bias.data[3] = 0
    ffn.bias.data[11] = 2.0  # always the same is as good as dead: the bias makes up for it
    index = next(i for i, s in enumerate(sites) if s.layer == 1 and s.kind == "ffn")
    path = removal_paths(model, sites, collect_statistics(model, samples))[index]
    assert set(path.order[:2].tolist()) == {3, 11}
    assert path.errors[-3] == 0


def test_a_site_whose_inputs_are_all_zero_costs_nothing():
    model, samples = tiny("bert").float(), text_samples("classification", 16)
    ffn = model.bert.encoder.layer[0].intermediate.dense
    ffn.weight.data.zero_()
    ffn.bias.data.zero_()
    sites = find_sites(model)
    paths = removal_paths(model, sites, collect_statistics(model, samples))
    assert (paths[1].errors == 0).all()
    assert paths[0].errors[0] > 0


def test_fewer_tokens_than_columns_still_give_a_path():
    model, samples = tiny("bert").float(), text_samples("classification", 1)
    paths = removal_paths(model, find_sites(model), collect_statistics(model, samples))
    assert all(np.isfinite(path.errors).all() for path in paths)


def test_plain_errors_are_relative_to_the_output():
    model, samples = tiny("bert").float(), text_samples("classification", 16)
    sites = find_sites(model)
    statistics = collect_statistics(model, samples)
    paths = removal_paths(model, sites, statistics, plain=True)
    inputs, _ = statistics.kronecker_factors()
    for i in (0, 1):
        weight = get_projection(model, sites[i])[0].detach().double().T
        size = torch.trace(weight.T @ inputs.about_zero(i) @ weight)
        gram = inputs.about_mean(i)
        gram.diagonal().add_(RIDGE * inputs.about_zero(i).diagonal().mean())
        everything = torch.trace(weight.T @ gram @ weight)
        assert paths[i].errors[0] == pytest.approx(float(everything / size), rel=1e-6)
