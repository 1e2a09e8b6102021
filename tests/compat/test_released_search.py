"""Searches of the drop-in against the released procedures in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import released
import torch

from fastprune.compat.retraining_free import (
    compute_fisher_info,
    compute_mac,
    compute_mask_mac,
    estimate_latency,
    fit_latency_fn,
    mac_per_head,
    mac_per_neuron,
    search_latency,
    search_mac,
)
from fastprune.errors import BudgetError, DataError, FastpruneError, NumericalError

SEQ_LEN = 25.16
SHARES = (0.15, 0.3, 0.5, 0.7071, 0.9)


def scores(pair):
    return [compute_fisher_info(grads).double().numpy() for grads in pair]


def costs(config):
    size = config.hidden_size // config.num_attention_heads
    per_head = mac_per_head(SEQ_LEN, config.hidden_size, size)
    per_filter = mac_per_neuron(SEQ_LEN, config.hidden_size)
    layers = config.num_hidden_layers
    dense = layers * (config.num_attention_heads * per_head + config.intermediate_size * per_filter)
    return per_head, per_filter, dense


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("bug_compatible", [False, True])
def test_masks_for_macs_are_the_original_ones(config, grads, ties, bug_compatible):
    per_head, per_filter, dense = costs(config)
    for seed in range(20):
        pair = grads(seed, ties=ties)
        for share in SHARES:
            found = search_mac(config, *pair, SEQ_LEN, share, bug_compatible=bug_compatible)
            expected = released.search_mac(
                *scores(pair), per_head, per_filter, share * dense, overdraw=bug_compatible
            )
            for mask, wanted in zip(found, expected, strict=True):
                assert mask.dtype == torch.float32
                np.testing.assert_array_equal(mask.numpy(), wanted)
            if not bug_compatible:
                pruned, original = compute_mask_mac(*found, SEQ_LEN, config.hidden_size)
                assert original == pytest.approx(dense)
                assert pruned <= share * dense * (1 + 1e-9)


def test_heads_alone_exceed_a_small_budget_only_when_asked_to(config, grads):
    pair = grads(0, heads=10.0)
    share = 0.2
    fixed, released_way = (
        compute_mask_mac(
            *search_mac(config, *pair, SEQ_LEN, share, bug_compatible=way), SEQ_LEN, 32
        )
        for way in (False, True)
    )
    assert fixed[0] <= share * fixed[1]
    assert released_way[0] > 2 * share * released_way[1]


def tables(seed, kind="bent"):
    """Flat, then rising, with some noise: heads and filters."""
    generator = np.random.default_rng(seed)
    found = []
    for units, threshold, slope in ((4, 2, 0.6), (10, 4, 0.3)):
        steps = np.arange(1, units + 1)
        table = 1 + slope * np.maximum(steps - (threshold if kind == "bent" else 0), 0)
        found.append(list(table + 0.01 * generator.random(units)))
    return found


@pytest.mark.parametrize("kind", ["bent", "straight"])
@pytest.mark.parametrize("bug_compatible", [False, True])
def test_masks_for_latency_are_those_of_the_procedure(config, grads, bug_compatible, kind):
    reached = 0
    for seed in range(15):
        pair, luts = grads(seed), tables(seed, kind)
        fits = [fit_latency_fn(lut) for lut in luts]
        ones = torch.ones(3, 4), torch.ones(3, 10)
        dense = estimate_latency(*luts, *ones)
        for share in (0.35, 0.5, 0.7, 0.9):
            expected = released.search_latency(
                *scores(pair), *fits, share * dense, released=bug_compatible
            )
            if expected is None:
                with pytest.raises(BudgetError, match="smallest for this model is"):
                    search_latency(config, *pair, share, *luts, bug_compatible=bug_compatible)
                continue
            reached += 1
            found = search_latency(config, *pair, share, *luts, bug_compatible=bug_compatible)
            for mask, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(mask.numpy(), wanted)
            if not bug_compatible:
                assert fitted(fits, found) <= share * dense * (1 + 1e-9)
    assert reached > 10


def fitted(fits, masks):
    counts = [[int(row.sum()) for row in mask] for mask in masks]
    return sum(
        fit.c + fit.slope * max(n - fit.threshold, 0)
        for fit, kept in zip(fits, counts, strict=True)
        for n in kept
        if n
    )


def test_a_table_that_never_rises_buys_everything_at_once(config, grads):
    flat = [1.0] * 4, [1.0] * 10
    heads, filters = search_latency(config, *grads(0), 0.67, *flat)
    assert heads.any(1).sum() + filters.any(1).sum() == 4
    # The constant of a sublayer is all it costs, so what stays stays whole.
    assert set(heads.sum(1).tolist()) <= {0.0, 4.0}
    assert set(filters.sum(1).tolist()) <= {0.0, 10.0}


@pytest.mark.parametrize(
    ("share", "error"), [(1.0, "between 0 and 1"), (0.0, "between 0 and 1"), (1e-6, "smallest")]
)
def test_impossible_budgets_are_refused(config, grads, share, error):
    with pytest.raises(BudgetError, match=error):
        search_mac(config, *grads(0), SEQ_LEN, share)
    with pytest.raises(BudgetError, match=error):
        search_latency(config, *grads(0), share, *tables(0))


def test_the_smallest_share_named_is_reachable(config, grads):
    for search in (
        lambda share: search_mac(config, *grads(0), SEQ_LEN, share),
        lambda share: search_latency(config, *grads(0), share, *tables(0)),
    ):
        with pytest.raises(BudgetError) as refusal:
            search(1e-6)
        heads, _ = search(float(str(refusal.value).split()[-1]))
        assert heads.sum() >= 1


def test_gradients_of_another_model_are_refused(config, grads):
    heads, filters = grads(0)
    with pytest.raises(DataError, match=r"\[rows, 3, 10\]"):
        search_mac(config, heads, filters[..., :9], SEQ_LEN, 0.5)
    with pytest.raises(NumericalError, match="not finite"):
        search_mac(config, heads * float("nan"), filters, SEQ_LEN, 0.5)


@pytest.mark.parametrize(
    "lut", [[], [1.0, 2.0], [1.0, float("nan"), 2.0, 3.0], [0.0] * 4, [[1.0] * 4]]
)
def test_unusable_tables_are_refused(config, grads, lut):
    with pytest.raises(FastpruneError, match="latency table"):
        search_latency(config, *grads(0), 0.5, lut, tables(0)[1])


def test_macs_are_those_of_the_layers():
    # One sample of 5 tokens through a layer of width 6 with 2 heads of width 3 and 7 filters.
    assert mac_per_head(5, 6, 3) == 4 * 5 * 6 * 3 + 2 * 5 * 5 * 3
    assert mac_per_neuron(5, 6) == 60
    assert compute_mac([2, 1], [7, 0], 5, 6, 3) == 3 * 510 + 7 * 60
    heads, filters = torch.tensor([[1.0, 0.3], [0, -2]]), torch.zeros(2, 7)
    assert compute_mask_mac(heads, filters, 5, 6) == (3 * 510, 4 * 510 + 14 * 60)


@pytest.mark.parametrize("bought", range(1, 8))
def test_a_unit_that_fits_exactly_is_bought(config, grads, bought):
    # Tables without a flat part: every unit costs the same, and 0.1 is no binary number.
    head_lut = [0.1 * n for n in range(1, 5)]
    filter_lut = [0.1 * n for n in range(1, 11)]
    whole = 3 * (head_lut[-1] + filter_lut[-1])
    limit = 3 * (head_lut[0] + filter_lut[0]) + bought * 0.1
    heads, filters = search_latency(config, *grads(1), limit / whole, head_lut, filter_lut)
    spent = 0.1 * float(heads.sum() + filters.sum())
    assert spent == pytest.approx(limit, rel=1e-6)
