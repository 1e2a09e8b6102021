"""Our Fisher information in Torch-Pruning's pruners."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import random_masks, tiny
from tiny_samples import samples_for

import fastprune
from fastprune.data.samples import model_inputs
from fastprune.errors import DataError, FastpruneError, UnsupportedModelError
from fastprune.structure import find_inner_sites

tp = pytest.importorskip("torch_pruning", reason="pip install torch-pruning")
from fastprune.compat.torch_pruning import FisherImportance  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "torch_pruning_bert.py"


def pruner(model, importance, samples, **options):
    inputs = model_inputs(next(iter(samples.batches(2))))
    options = {"pruning_ratio": 0.5, "head_pruning_ratio": 0.5, **options}
    return tp.pruner.BasePruner(
        model,
        inputs,
        importance,
        output_transform=lambda out: next(iter(out.values())).sum(),
        **{**importance.options(), **options},
    )


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "vit", "opt"])
def test_whole_heads_and_filters_go_the_least_important_first(family):
    model, samples = tiny(family).float(), samples_for(family)
    statistics = fastprune.collect_statistics(model, samples)
    importance = FisherImportance(model, statistics=statistics)
    sites = fastprune.find_sites(model)
    scores = statistics.importance().split([site.units for site in sites])
    masks = {}
    for site, score in zip(sites, scores, strict=True):
        masks[site.name] = torch.zeros(site.units)
        masks[site.name][score.argsort(descending=True)[: site.units // 2]] = 1
    expected = fastprune.compact(model, masks)
    pruner(model, importance, samples).step()
    importance.finish()
    units = [site.units for site in fastprune.find_sites(model)]
    assert units == [site.units // 2 for site in sites]
    inputs = model_inputs(next(iter(samples.batches(3))))
    found, wanted = (next(iter(m(**inputs).values())) for m in (model, expected))
    torch.testing.assert_close(found, wanted)


def test_what_is_left_saves_and_reloads(tmp_path):
    model, samples = tiny("bert").float(), samples_for("bert")
    importance = FisherImportance(model, samples)
    pruner(model, importance, samples, global_pruning=True).step()
    importance.finish()
    fastprune.save_pretrained(model, tmp_path / "smaller")
    again = fastprune.load_pretrained(tmp_path / "smaller")
    inputs = model_inputs(next(iter(samples.batches(3))))
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_scores_follow_the_channels_that_are_asked_about():
    model, samples = tiny("bert").float(), samples_for("bert")
    statistics = fastprune.collect_statistics(model, samples)
    importance = FisherImportance(model, statistics=statistics)
    inputs = model_inputs(next(iter(samples.batches(2))))
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    module = model.bert.encoder.layer[1].intermediate.dense
    group = graph.get_pruning_group(module, tp.prune_linear_out_channels, [5, 2, 9])
    filters = statistics.block(3).diagonal()
    assert torch.equal(importance(group), filters[[5, 2, 9]])


def test_channels_without_fisher_information_are_refused():
    model, samples = tiny("bert").float(), samples_for("bert")
    importance = FisherImportance(model, samples)
    with pytest.raises(FastpruneError, match="knows heads and FFN filters, not the channels of"):
        pruner(model, importance, samples, ignored_layers=[model.classifier]).step()


def test_a_second_step_needs_a_new_importance():
    model, samples = tiny("bert").float(), samples_for("bert")
    importance = FisherImportance(model, samples)
    steps = pruner(model, importance, samples, iterative_steps=2)
    steps.step()
    importance.finish()
    with pytest.raises(FastpruneError, match="make a new FisherImportance"):
        steps.step()
    steps.current_step = 1
    steps.importance = FisherImportance(model, samples)
    steps.step()
    assert {site.units for site in fastprune.find_sites(model)} <= {1, 2, 18}


def test_models_that_torch_pruning_cannot_prune_are_refused():
    with pytest.raises(UnsupportedModelError, match="Conv1D"):
        FisherImportance(tiny("gpt2").float(), samples_for("gpt2"))
    with pytest.raises(UnsupportedModelError, match="key/value groups"):
        FisherImportance(tiny("llama").float(), samples_for("llama"))
    model = tiny("bert").float()
    sites = find_inner_sites(model, kinds=("v",))
    uneven = fastprune.compact(model, {sites[0].name: torch.arange(32) < 29}, sites)
    with pytest.raises(UnsupportedModelError, match="differ in width"):
        FisherImportance(uneven, samples_for("bert"))


def test_statistics_must_fit():
    model, samples = tiny("bert").float(), samples_for("bert")
    smaller = fastprune.compact(model, random_masks(fastprune.find_sites(model)))
    statistics = fastprune.collect_statistics(smaller, samples)
    with pytest.raises(DataError, match="another model"):
        FisherImportance(model, statistics=statistics)
    with pytest.raises(FastpruneError, match="either samples or statistics"):
        FisherImportance(model)


def test_without_torch_pruning_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "from fastprune.errors import FastpruneError\n"
        "try:\n    import fastprune.compat.torch_pruning\n"
        "except FastpruneError as error:\n    print(error)\n"
    )
    environ = {"PYTHONPATH": str(Path(fastprune.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip().endswith("pip install torch-pruning")


def test_the_example_runs(tmp_path, tokenizer):
    tiny("bert").float().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = ["the cat sat\t0", "a good film\t1", "who was in paris\t0", "very bad\t1"] * 3
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        import torch_pruning_bert
    finally:
        sys.path.pop(0)
    given = [tmp_path / "model", "--train", tmp_path / "train.tsv", "--out", tmp_path / "smaller"]
    torch_pruning_bert.main([str(part) for part in given])
    smaller = fastprune.load_pretrained(tmp_path / "smaller")
    assert [site.units for site in fastprune.find_sites(smaller)] == [2, 18] * 3
