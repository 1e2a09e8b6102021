"""Token reduction as users ask for it: in Python, on the command line, on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from click.testing import CliRunner
from datasets import Dataset
from tiny_models import random_masks, tiny

import fastprune
from fastprune.cli import main
from fastprune.compaction import compact
from fastprune.errors import BudgetError, CheckpointError, FastpruneError, UnsupportedModelError
from fastprune.merging.reduction import schedule_of
from fastprune.structure import find_sites
from fastprune.structure.inputs import dummy_inputs
from fastprune.tokens.schedule import model_macs


def rows(count=24):
    generator = torch.Generator().manual_seed(5)
    return [
        {"pixel_values": torch.randn(3, 8, 8, generator=generator).tolist(), "label": i % 2}
        for i in range(count)
    ]


def logits(model, inputs=None):
    with torch.no_grad():
        return model(**(inputs or dummy_inputs(model))).logits


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A tiny ViT with its image processor, and images."""
    root = tmp_path_factory.mktemp("tokens")
    processor = hf.ViTImageProcessor(
        size={"height": 8, "width": 8}, do_rescale=False, do_normalize=False
    )
    fastprune.save_pretrained(tiny("vit", patch_size=2).float(), root / "model", processor)
    Dataset.from_list(rows()).to_parquet(root / "images.parquet")
    return root


@pytest.mark.parametrize("share", [0.9, 0.7])
@pytest.mark.parametrize("family", ["vit", "deit"])
def test_a_smaller_budget_in_macs(family, share):
    model = tiny(family, patch_size=2).float()
    before = logits(model)
    reduced = fastprune.reduce_tokens(model, rows(), {"macs": share})
    assert model_macs(reduced, 17) <= share * model_macs(model, schedule_or_all(model))
    assert len(set(schedule_of(reduced))) > 1
    assert torch.equal(logits(model), before)
    assert schedule_of(model) is None
    # The weights are the copy's own.
    next(reduced.parameters()).data.zero_()
    assert torch.equal(logits(model), before)


def schedule_or_all(model):
    return model.base_model.embeddings.position_embeddings.shape[1]


def test_half_precision_and_training_mode_come_back():
    model = tiny("vit", patch_size=2).to(torch.bfloat16).train()
    reduced = fastprune.reduce_tokens(model, rows(), "macs=0.8")
    assert reduced.dtype == torch.bfloat16
    assert reduced.training
    assert model.training


@pytest.mark.parametrize("family", ["vit", "deit"])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_reloads_bit_for_bit(tmp_path: Path, family, pruned, plain):
    model = tiny(family, patch_size=2).float()
    if pruned:
        model = compact(model, random_masks(find_sites(model)))
    reduced = fastprune.reduce_tokens(model, rows(), "macs=0.8")
    if plain:
        reduced.save_pretrained(tmp_path / "model")
    else:
        fastprune.save_pretrained(reduced, tmp_path / "model")
    named = fastprune.load_pretrained(tmp_path / "model")
    auto = hf.AutoModelForImageClassification.from_pretrained(tmp_path / "model", dtype="auto")
    inputs = dummy_inputs(reduced)
    for again in (named, auto):
        assert schedule_of(again) == schedule_of(reduced)
        assert torch.equal(logits(again, inputs), logits(reduced, inputs))
    # And once more, from what was loaded.
    fastprune.save_pretrained(named, tmp_path / "again")
    last = fastprune.load_pretrained(tmp_path / "again")
    assert torch.equal(logits(last, inputs), logits(reduced, inputs))


def test_heads_may_go_afterwards(tmp_path: Path):
    reduced = fastprune.reduce_tokens(tiny("vit", patch_size=2).float(), rows(), "macs=0.8")
    small = compact(reduced, random_masks(find_sites(reduced)))
    assert schedule_of(small) == schedule_of(reduced)
    small.save_pretrained(tmp_path / "model")
    again = fastprune.load_pretrained(tmp_path / "model")
    assert schedule_of(again) == schedule_of(reduced)
    inputs = dummy_inputs(small)
    assert torch.equal(logits(again, inputs), logits(small, inputs))


@pytest.mark.parametrize("tokens", [[17, 4, 4], [17, 9], "many", [17, None, 3], [12, 9, 9]])
def test_configs_that_promise_nonsense(tmp_path: Path, tokens):
    reduced = fastprune.reduce_tokens(tiny("vit", patch_size=2), rows(), "macs=0.8")
    fastprune.save_pretrained(reduced, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"]["tokens"] = tokens
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"restore config\.json") as refusal:
        fastprune.load_pretrained(tmp_path / "model")
    assert "\n" not in str(refusal.value)


def test_on_the_command_line(workspace, tmp_path: Path):
    out = tmp_path / "out"
    arguments = [
        "prune", workspace / "model", "--train", workspace / "images.parquet",
        "--eval", workspace / "images.parquet", "--budget", "macs=0.8", "--tokens", "0.2",
        "--out", out,
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "tokens per layer: 17" in result.output
    report = json.loads((out / "fastprune_report.json").read_text())
    model = fastprune.load_pretrained(out)
    assert report["units"]["tokens"] == schedule_of(model)
    assert report["macs"]["kept"] <= 0.8 * 0.8
    assert report["macs"]["pruned"] == model_macs(model, 17)
    scored = CliRunner().invoke(
        main, ["eval", str(out), "--data", str(workspace / "images.parquet"), "--json"]
    )
    assert json.loads(scored.output)["score"] == report["pruned"]["score"]


def test_every_budget_of_a_run_gets_its_own_schedule(workspace):
    sweep = fastprune.sweep(
        workspace / "model",
        workspace / "images.parquet",
        ["macs=0.9", "params=0.5"],
        tokens=0.25,
        tune="none",
        cache=False,
        latency=False,
    )
    for point in sweep.points:
        assert point.report["units"]["tokens"][0] == 17
        assert point.report["units"]["tokens"][-1] < 17
    assert sweep.points[0].report["macs"]["kept"] <= 0.9 * 0.75


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "half"])
def test_shares_out_of_range(workspace, share):
    with pytest.raises(FastpruneError, match="between 0 and 1"):
        fastprune.prune(workspace / "model", rows(), tokens=share)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"uniform": True}, "does not go with uniform"),
        ({"budget": "latency=0.5"}, "does not go with latency"),
        ({"preset": "kwon2022"}, "does not go with tokens=0.3"),
        ({"tokens": 0.9}, "smallest for this model is macs="),
    ],
)
def test_what_it_does_not_go_with(workspace, options, reason):
    with pytest.raises(FastpruneError, match=reason):
        fastprune.prune(workspace / "model", "no such file", **{"tokens": 0.3, **options})


def test_refusals_come_before_any_data_are_read(tmp_path: Path):
    with pytest.raises(UnsupportedModelError, match="ViT or DeiT"):
        fastprune.reduce_tokens(tiny("bert"), "no such file")
    with pytest.raises(UnsupportedModelError, match="leave tokens out"):
        fastprune.prune(tiny("bert"), "no such file", tokens=0.2)
    with pytest.raises(BudgetError, match="give a budget in MACs"):
        fastprune.reduce_tokens(tiny("vit", patch_size=2), "no such file", "params=0.5")


def test_reduced_models_are_not_pruned_measured_or_saved_as_something_else(tmp_path: Path):
    reduced = fastprune.reduce_tokens(tiny("vit", patch_size=2), rows(), "macs=0.8")
    for attempt in (
        lambda: fastprune.prune(reduced, rows()),
        lambda: fastprune.reduce_tokens(reduced, rows()),
        lambda: fastprune.measure_latency_table(reduced),
        lambda: fastprune.save_pretrained(reduced, tmp_path / "model", uniform=True),
    ):
        with pytest.raises(FastpruneError, match="tokens of this model are reduced"):
            attempt()
    assert not (tmp_path / "model").exists()


def test_latency_is_that_of_fewer_tokens():
    """Counted in calls, not in seconds: the timed model does merge."""
    reduced = fastprune.reduce_tokens(tiny("vit", patch_size=2).float(), rows(), "macs=0.8")
    seen = []
    last = reduced.base_model.layernorm
    hook = last.register_forward_hook(lambda _, args, output: seen.append(args[0].shape[1]))
    fastprune.measure_latency({"reduced": reduced}, batch=2, repeats=1, progress=False)
    hook.remove()
    assert set(seen) == {schedule_of(reduced)[-1]}
