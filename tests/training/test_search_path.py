"""The search of SPP on training data: its steps, checkpoints and files."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from tiny_samples import text_samples

import fastprune
from fastprune import prune, search_path
from fastprune.errors import CheckpointError, DataError, FastpruneError, NumericalError
from fastprune.fingerprint import fingerprint_model
from fastprune.spp.inclusion import Inclusion, MaskedLoss
from fastprune.spp.order import KAPPA, Start
from fastprune.spp.saved import SearchedPath
from fastprune.structure import GRANULARITIES, find_sites, masked
from fastprune.training.loop import batch_inputs

QUICK = {"epochs": 3, "batch_size": 4, "save_every": 2}


@pytest.fixture
def bert():
    return tiny("bert").float()


@pytest.fixture
def samples():
    return text_samples("classification", 16)


def test_steps_follow_the_loss_of_the_masked_model(bert, samples):
    """Against autograd and the recursion written out, unit by unit, over several batches."""
    sites = find_sites(bert)
    units = sum(site.units for site in sites)
    start = Start(
        torch.linspace(0.01, 0.05, units)[None], torch.tensor([0.5]), torch.full((1, units), 0.7)
    )
    module = MaskedLoss(bert, sites, start.masks)
    steps = Inclusion(module.masks, start, curvature=2.0)
    mask, nu = start.masks.double()[0], 0.5
    dual = gate = torch.zeros(units, dtype=torch.float64)
    alpha = 1 / (KAPPA * (2.0 + 2 / nu))
    thresholds = start.thresholds.double()[0]
    for turn in range(4):
        batch = batch_inputs(samples, [turn, turn + 4, turn + 8])
        leaf = mask.float().requires_grad_()
        parts = leaf.split([site.units for site in sites])
        named = {site.name: part for site, part in zip(sites, parts, strict=True)}
        with masked(bert, named):
            (gradient,) = torch.autograd.grad(bert(**batch).loss, leaf)
        pull = (mask - gate) / nu
        mask, dual = mask - KAPPA * alpha * (gradient.double() + pull), dual + alpha * pull
        gate = KAPPA * (dual - thresholds).clamp(min=0)
        module.zero_grad()
        module(**batch)["loss"].backward()
        steps.step()
        torch.testing.assert_close(module.masks.data[0], mask, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(steps.path().gate[0], gate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("granularity", list(GRANULARITIES))
def test_one_search_serves_nested_budgets(bert, samples, granularity, tmp_path):
    before = fingerprint_model(bert)
    file = tmp_path / "path.json"
    found = search_path(bert, samples, file, granularity=granularity, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["path.json"]
    assert SearchedPath.load(file) == found
    assert found.origin["steps"] == 12
    assert fingerprint_model(bert) == before
    assert all(parameter.requires_grad for parameter in bert.parameters())
    options = {"method": "spp", "tune": "none", "samples": 8, "latency": False}
    small, large = (
        prune(bert, samples, share, path=file, granularity=granularity, **options)
        for share in (0.4, 0.7)
    )
    assert small.report.macs.kept <= 0.4
    assert 0.4 < large.report.macs.kept <= 0.7
    assert all(torch.all(mask <= large.masks[name]) for name, mask in small.masks.items())
    # Nothing is calibrated: the path says it all.
    assert small.report.timing_s["calibrate"] == 0


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(
    bert, samples, tmp_path, monkeypatch
):
    whole = search_path(bert, samples, tmp_path / "whole.json", **QUICK)
    step, taken = Inclusion.step, []

    def failing(self, closure=None):
        if len(taken) == 7:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, closure)

    file = tmp_path / "path.json"
    monkeypatch.setattr(Inclusion, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        search_path(bert, samples, file, **QUICK)
    monkeypatch.undo()
    assert not file.exists()
    with pytest.raises(CheckpointError, match="--resume"):
        search_path(bert, samples, file, **QUICK)
    with pytest.raises(CheckpointError, match="epochs was"):
        search_path(bert, samples, file, resume=True, **{**QUICK, "epochs": 4})
    counted = []
    monkeypatch.setattr(
        Inclusion, "step", lambda self, closure=None: counted.append(1) or step(self, closure)
    )
    again = search_path(bert, samples, file, resume=True, **QUICK)
    assert len(counted) == 6  # of twelve, from the checkpoint after the sixth on
    # To the last digit: order of batches, masks, duals and crossing times.
    assert again == whole
    assert {path.name for path in tmp_path.iterdir()} == {"path.json", "whole.json"}


def test_paths_of_something_else_are_refused(bert, samples, tmp_path):
    file = tmp_path / "path.json"
    found = search_path(bert, samples, file, **QUICK)
    options = {"method": "spp", "samples": 8, "latency": False, "path": file}
    with pytest.raises(FastpruneError, match="searched with granularity=heads"):
        prune(bert, samples, 0.5, granularity="dimensions", **options)
    with pytest.raises(FastpruneError, match="method obs follows no searched path"):
        prune(bert, samples, 0.5, **{**options, "method": "obs"})
    other = tiny("bert").float()
    other.classifier.weight.data += 1
    with pytest.raises(FastpruneError, match="other weights"):
        prune(other, samples, 0.5, **options)
    with pytest.raises(FastpruneError, match="other layers"):
        prune(tiny("distilbert").float(), samples, 0.5, **options)
    for values in ({"order": found.order[:-1]}, {"units": [1]}):
        replace(found, **values).save(file)
        with pytest.raises(CheckpointError, match="cannot read a path"):
            prune(bert, samples, 0.5, **options)
    for text in ("", "[]", json.dumps({"order": [1]})):
        file.write_text(text)
        with pytest.raises(CheckpointError, match="cannot read a path"):
            prune(bert, samples, 0.5, **options)
    with pytest.raises(CheckpointError, match="cannot read a path"):
        prune(bert, samples, 0.5, **{**options, "path": tmp_path / "nowhere.json"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive number"),
        ({"epochs": float("nan")}, "epochs must be a positive number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"accumulate": 1.5}, "accumulate must be a whole number"),
        ({"save_every": 0}, "save_every must be a whole number"),
        ({"seed": -1}, "seed must be"),
        ({"samples": 99}, "the data hold 16"),
    ],
)
def test_bad_input(bert, samples, tmp_path, options, message):
    with pytest.raises(FastpruneError, match=message):
        search_path(bert, samples, tmp_path / "path.json", **options)
    assert not list(tmp_path.iterdir())


def test_it_needs_labels_and_a_place(bert, tmp_path):
    without = text_samples("classification", labels=False)
    with pytest.raises(DataError, match="label"):
        search_path(bert, without, tmp_path / "path.json")
    with pytest.raises(CheckpointError, match="is a directory"):
        search_path(bert, without, tmp_path)
    with pytest.raises(CheckpointError, match="no directory"):
        search_path(bert, without, tmp_path / "missing" / "path.json")


def test_accelerate_is_asked_for_by_name(bert, samples, tmp_path, monkeypatch):
    monkeypatch.setattr("fastprune.training.loop.find_spec", lambda _: None)
    with pytest.raises(FastpruneError, match=r"pip install 'fastprune\[training\]'"):
        fastprune.search_path(bert, samples, tmp_path / "path.json")


def test_a_search_that_diverges_leaves_nothing(bert, samples, tmp_path, monkeypatch):
    """The fifth step's gradient is not finite; the checkpoint after the fourth has to go, too."""
    step, taken = Inclusion.step, []

    def spoilt(self, closure=None):
        taken.append(1)
        if len(taken) == 5:
            self.param_groups[0]["params"][0].grad[0, 3] = float("nan")
        return step(self, closure)

    monkeypatch.setattr(Inclusion, "step", spoilt)
    with pytest.raises(NumericalError, match="search does not stay finite: check the training"):
        search_path(bert, samples, tmp_path / "path.json", **QUICK)
    assert len(taken) == 5
    assert not list(tmp_path.iterdir())


def test_masks_of_half_models_are_not_rounded(bert, samples, tmp_path):
    """The path of a bfloat16 model is that of its weights in float32, and it stays bfloat16."""
    half = bert.bfloat16()
    full = copy.deepcopy(half).float()
    found = search_path(half, samples, tmp_path / "half.json", **QUICK)
    assert half.dtype == torch.bfloat16
    whole = search_path(full, samples, tmp_path / "full.json", **QUICK)
    assert found.order == whole.order
    assert found.crossing == whole.crossing


@pytest.mark.parametrize("out", ["train.tsv", "model/config.json"])
def test_what_is_read_is_not_written_over(tmp_path, out):
    (tmp_path / "model").mkdir()
    for file in ("train.tsv", "model/config.json"):
        (tmp_path / file).write_text("precious")
    with pytest.raises(CheckpointError, match="is read, or part of what is"):
        search_path(tmp_path / "model", tmp_path / "train.tsv", tmp_path / out, overwrite=True)
    assert (tmp_path / out).read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sites": []}, "other numbers of sites"),
        ({"crossing": [2.0, 1.0, None]}, "do not ascend"),
        ({"crossing": [1.0, None, 2.0]}, "do not ascend"),
        ({"crossing": ["a", None, None]}, "could not convert"),
        ({"order": [0, 1, 1]}, "not one of all units"),
    ],
)
def test_paths_that_were_tampered_with(tmp_path, change, reason):
    path = SearchedPath("m", "heads", ("a", "b"), (2, 1), (2, 0, 1), (1.0, 2.0, None), {})
    path.save(tmp_path / "path.json")
    assert SearchedPath.load(tmp_path / "path.json") == path
    values = json.loads((tmp_path / "path.json").read_text()) | change
    (tmp_path / "path.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=reason):
        SearchedPath.load(tmp_path / "path.json")
