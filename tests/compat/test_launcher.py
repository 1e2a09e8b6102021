"""The launcher on a script that imports as the released one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import released
import torch
from click.testing import CliRunner
from tiny_models import tiny
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from fastprune import compat
from fastprune.compat.retraining_free.__main__ import main
from fastprune.compat.retraining_free.launcher import run_script
from fastprune.compat.retraining_free.launcher.devices import cpu_without_gpu
from fastprune.compat.retraining_free.launcher.head_masks import head_masks_applied
from fastprune.compat.retraining_free.launcher.metrics import load_metric
from fastprune.errors import DataError, FastpruneError

CHECKOUT = Path(__file__).parent / "checkout"
SENTENCES = ["the cat sat", "a bad film", "very good house", "who ran", "the dog is on the mat"]


@pytest.fixture(scope="session")
def offline(tmp_path_factory, tokenizer):
    """A directory with a model, a directory with its data, and one for results."""
    root = tmp_path_factory.mktemp("launcher")
    for name in ("model", "data", "out"):
        (root / name).mkdir()
    tiny("bert", vocab_size=60).float().save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    for split, repeats in (("train", 8), ("validation", 3)):
        lines = [f"{sentence}\t{i % 2}" for i, sentence in enumerate(SENTENCES * repeats)]
        (root / "data" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    return root


def arguments(root, metric="mac", share="0.5"):
    return [str(root / "model"), metric, share, str(root / "out")]


def masks_of(root):
    return torch.load(root / "out" / "masks.pt")


def environment():
    return {
        "argv": list(sys.argv),
        "path": list(sys.path),
        "modules": {name for name in sys.modules if name.split(".")[0] in ("prune", "evaluate")},
        "patched": (torch.Tensor.to, torch.Tensor.cuda, torch.nn.Module.to, torch.nn.Module.cuda),
        "call": PreTrainedModel.__call__,
        "datasets": (datasets.load_dataset, hasattr(datasets, "load_metric")),
    }


@pytest.mark.parametrize("metric", ["mac", "latency"])
def test_a_script_runs_from_gradients_to_accuracy(offline, metric, capsys):
    before = environment()
    run_script(CHECKOUT / "main.py", arguments(offline, metric), data=offline / "data")
    printed = capsys.readouterr().out
    assert "Test accuracy: 0." in printed
    found_heads, found_filters, heads, filters = masks_of(offline)
    assert [tuple(mask.shape) for mask in (heads, filters)] == [(3, 4), (3, 37)]
    assert torch.equal((heads != 0).sum(1), found_heads.sum(1).long())
    assert torch.equal((filters != 0).sum(1), found_filters.sum(1).long())
    assert not torch.equal(filters, (filters != 0).float())  # rescaled
    assert environment() == before


def test_the_accuracy_is_that_of_the_masked_model(offline, capsys, tokenizer):
    run_script(CHECKOUT / "main.py", arguments(offline), data=offline / "data")
    printed = float(capsys.readouterr().out.split("Test accuracy: ")[1])
    *_, heads, filters = masks_of(offline)
    model = AutoModelForSequenceClassification.from_pretrained(offline / "model").eval()
    batch = tokenizer(SENTENCES * 3, return_tensors="pt", padding=True)
    with released.Bert(model, []).masked(heads, filters), torch.no_grad():
        predicted = model(**batch).logits.argmax(-1)
    labels = torch.arange(len(predicted)) % 2
    assert printed == pytest.approx((predicted == labels).float().mean().item(), abs=1e-4)


def test_defects_are_switched_on_by_the_launcher(tmp_path, capsys):
    """Heads so important that, as released, they exceed the budget on their own."""
    script = tmp_path / "main.py"
    script.write_text(
        """
import torch
from types import SimpleNamespace
from prune.search import search_mac
config = SimpleNamespace(
    num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=10
)
heads, filters = search_mac(config, torch.ones(3, 2, 4), 1e-3 * torch.ones(3, 2, 10), 9, 0.3)
print(int(heads.sum()), int(filters.sum()))
"""
    )
    printed = []
    for bug_compatible in (False, True):
        run_script(script, bug_compatible=bug_compatible)
        printed.append(capsys.readouterr().out.split())
    (heads, _), released_way = printed
    assert int(heads) < 8
    assert released_way == ["8", "0"]


def test_installed_packages_of_the_same_name_do_not_get_in_the_way(offline, monkeypatch):
    theirs = ModuleType("evaluate")
    monkeypatch.setitem(sys.modules, "evaluate", theirs)
    run_script(CHECKOUT / "main.py", arguments(offline), data=offline / "data")
    assert sys.modules["evaluate"] is theirs


def test_all_is_put_back_after_a_failure(tmp_path):
    script = tmp_path / "main.py"
    script.write_text("import prune.fisher\nprune.fisher.collect_mask_grads\n1 / 0\n")
    before = environment()
    with pytest.raises(ZeroDivisionError):
        run_script(script)
    assert environment() == before


def test_the_command_runs_a_script_with_its_own_options(tmp_path):
    script = tmp_path / "main.py"
    script.write_text("import sys, utils.linalg as l\nprint(sys.argv[1:], l.__doc__)\n")
    command = [sys.executable, "-m", "fastprune.compat.retraining_free", str(script), "--data", "x"]
    environ = {**os.environ, "PYTHONPATH": str(Path(compat.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert done.stdout.startswith("['--data', 'x'] The two solvers")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["nowhere/main.py"], "there is no script nowhere/main.py"),
        (["--data", "{empty}", "{main}"], "holds no data"),
        (["--data", "{words}", "{main}"], "more than numbers"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, given, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "train.tsv").write_text("sentence\tlabel\na film\tgood\n")
    names = {name: tmp_path / name for name in ("empty", "words")}
    given = [part.format(main=CHECKOUT / "main.py", **names) for part in given]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 1
    assert problem in result.output
    assert result.output.startswith("fastprune: error: ")
    assert len(result.output.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there_is_the_cpu():
    with cpu_without_gpu():
        tensor = torch.ones(2).cuda().to("cuda", non_blocking=True).to(torch.device("cuda:1"))
        assert tensor.to(torch.float64).to(device="cuda", dtype=torch.float32).device.type == "cpu"
        module = torch.nn.Linear(2, 2).cuda(0).to("cuda")
        assert module.weight.device.type == "cpu"


def test_head_masks_scale_heads_and_have_gradients():
    model = tiny("bert")
    ids = torch.arange(5, 15).view(2, 5)
    masks = torch.rand(3, 4, dtype=torch.float64)
    with released.Bert(model, []).masked(masks, torch.ones(3, 37)):
        expected = model(ids).logits
    masks.requires_grad_()
    with head_masks_applied():
        found = model(input_ids=ids, head_mask=masks).logits
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found.square().sum(), masks)
        assert not torch.equal(model(ids).logits, found)
    step = torch.zeros(3, 4, dtype=torch.float64)
    step[1, 2] = 1e-6
    with head_masks_applied():
        moved = model(input_ids=ids, head_mask=masks.detach() + step).logits.square().sum()
    slope = (moved - found.square().sum()) / 1e-6
    torch.testing.assert_close(gradient[1, 2], slope.detach(), rtol=1e-3, atol=1e-6)


def test_metrics_are_those_of_the_tasks():
    def score(*names, predictions, references):
        metric = load_metric(*names)
        half = len(predictions) // 2
        metric.add_batch(predictions=predictions[:half], references=references[:half])
        return metric.compute(predictions=predictions[half:], references=references[half:])

    guesses, truth = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 0, 1])
    assert score("glue", "sst2", predictions=guesses, references=truth) == {"accuracy": 0.75}
    assert score("glue", "mrpc", predictions=guesses, references=truth) == {
        "accuracy": 0.75,
        "f1": pytest.approx(0.8),
    }
    assert score("glue", "cola", predictions=guesses, references=truth) == {
        "matthews_correlation": pytest.approx(1 / 3**0.5)
    }
    scores = score(
        "glue", "stsb", predictions=torch.tensor([1.0, 2.0, 9.0]), references=[0.0, 0.5, 1.0]
    )
    assert scores["spearmanr"] == pytest.approx(1)
    # Deviations (-3, -2, 5) and (-1/2, 0, 1/2): 4 / sqrt(38 / 2).
    assert scores["pearson"] == pytest.approx(4 / 19**0.5)
    answers = [{"id": "a", "prediction_text": "the red cat"}, {"id": "b", "prediction_text": ""}]
    gold = [
        {"id": "a", "answers": {"text": ["red cat", "a dog"], "answer_start": [0, 1]}},
        {"id": "b", "answers": {"text": ["mat"], "answer_start": [0]}},
    ]
    assert score("squad", predictions=answers, references=gold) == {"exact_match": 50, "f1": 50}
    assert score("squad_v2", predictions=answers, references=gold) == {"exact": 50, "f1": 50}
    with pytest.raises(FastpruneError, match="no metric 'rouge'"):
        load_metric("rouge")


def test_targets_stay_fractions(tmp_path):
    from fastprune.compat.retraining_free.launcher.datasets import local_data

    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\t5.0\nb\t2.5\n")
    (tmp_path / "validation.jsonl").write_text('{"sentence": "a", "label": 3}\n')
    with local_data(tmp_path):
        rows = datasets.load_dataset("glue", "stsb")
    assert rows["train"]["label"] == [5.0, 2.5]
    assert rows["validation"]["label"] == [3]
    with pytest.raises(DataError, match="holds no data"), local_data(tmp_path / "none"):
        pass
