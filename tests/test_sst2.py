"""The real model on real data: the accuracies and masks the project promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastprune import parse_budget
from fastprune.pipeline import prune_to_budgets
from fastprune.settings import Settings

# Least accuracy on the 872 validation sentences at each share of MACs, weights re-solved, for the
# default method and for the diagonal Fisher; the original algorithm's own accuracies; and the masks
# it keeps, per layer.
LEAST = {
    "obs": {0.7: 0.891, 0.5: 0.887, 0.4: 0.886, 0.3: 0.880, 0.25: 0.870},
    "fisher": {0.7: 0.889, 0.5: 0.887, 0.4: 0.880, 0.3: 0.868},
}
ORIGINAL = {0.7: 0.8911, 0.5: 0.8658, 0.4: 0.8498, 0.3: 0.8154}
ORIGINAL_UNITS = {
    0.5: {"heads": [11, 9, 9, 7, 3, 6], "filters": [1398, 1291, 917, 316, 86, 5]},
    0.3: {"heads": [7, 5, 6, 3, 0, 3], "filters": [997, 860, 580, 137, 30, 2]},
}


def prune(sst2, budgets, **options):
    settings = Settings(
        budgets=tuple(map(parse_budget, budgets)), samples=2048, latency=False, **options
    )
    results = prune_to_budgets(sst2["model"], sst2["train"], settings, eval_data=sst2["validation"])
    return dict(zip(budgets, results, strict=True))


@pytest.fixture(scope="module", params=LEAST)
def pruned(sst2, request):
    return request.param, prune(sst2, LEAST[request.param], method=request.param)


def test_accuracy_with_weights_re_solved(pruned):
    method, results = pruned
    for budget, result in results.items():
        score = result.report.score
        assert score.dense == pytest.approx(0.8933, abs=5e-5)
        assert score.pruned >= LEAST[method][budget], budget
        assert result.report.macs.kept <= budget
        assert result.report.warnings == []


def test_scales_are_no_worse_than_the_original(sst2):
    # Not at 0.7, where the target is missed by one sentence of 872: see the README.
    for budget, result in prune(sst2, (0.5, 0.4, 0.3), method="fisher", tune="scale").items():
        assert result.report.score.pruned >= ORIGINAL[budget], budget


def test_the_saved_model_scores_the_same_in_another_process(pruned, sst2, tmp_path):
    result = pruned[1][0.3]
    result.save_pretrained(tmp_path / "small")
    code = (
        "import fastprune, sys, transformers as t;"
        "m = t.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval();"
        "k = t.AutoTokenizer.from_pretrained(sys.argv[1]);"
        "s = fastprune.load_samples(sys.argv[2], k, model_config=m.config, split='eval');"
        "print(fastprune.evaluate(m, s, progress=False))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "small"), sst2["validation"]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(run.stdout) == result.report.score.pruned


def test_strict_parity_keeps_the_masks_and_the_accuracy_of_the_original(sst2):
    results = prune(sst2, ORIGINAL, preset="kwon2022", max_length=64, seq_len=25)
    for budget, units in ORIGINAL_UNITS.items():
        assert results[budget].report.units == units
    for budget, result in results.items():
        assert result.report.score.pruned == pytest.approx(ORIGINAL[budget], abs=0.012)
