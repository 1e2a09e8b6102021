from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny

from fastprune import compact, find_sites
from fastprune.budget import price_sites


def test_macs_of_bert_base_are_those_of_the_paper():
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig())
    sites = find_sites(model)
    s, d, h = 128, 768, 64
    prices = price_sites(sites, "macs", s)
    assert prices.of_kind("attention") == 4 * s * d * h + 2 * s * s * h
    assert prices.of_kind("ffn") == 2 * s * d
    assert prices.dense == 12 * (12 * (4 * s * d * h + 2 * s * s * h) + 3072 * 2 * s * d)


def test_a_gated_filter_costs_three_matrices():
    prices = price_sites(find_sites(tiny("llama")), "macs", 10)
    assert prices.of_kind("ffn") == 3 * 10 * 32


def test_a_grouped_query_unit_costs_its_shared_key_and_value_once():
    prices = price_sites(find_sites(tiny("llama")), "macs", 10)
    queries_and_output, keys_and_values, group = 2 * 16 * 32, 2 * 8 * 32, 16
    assert prices.of_kind("attention") == (
        10 * (queries_and_output + keys_and_values) + 2 * 100 * group
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_exactly_what_compaction_removes(family):
    model = tiny(family)
    small = compact(model, random_masks(find_sites(model)))
    removed = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in small.parameters()
    )
    before, after = (price_sites(find_sites(m), "params", 1).dense for m in (model, small))
    assert removed == before - after
