"""Swin and Mask2Former: what is found in them, what it costs, what it is worth, what is left."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from staged_models import staged, staged_samples
from tiny_models import random_masks
from torch import nn
from torch.nn import functional as F

import fastprune
from fastprune import prune
from fastprune.budget import price_sites
from fastprune.calibration import collect_statistics
from fastprune.calibration.divergence import Divergence
from fastprune.calibration.gradients import watch_gradients
from fastprune.calibration.objective import make_objective
from fastprune.compaction import compact, prove
from fastprune.errors import DataError, FastpruneError
from fastprune.optin import score_units
from fastprune.structure import find_inner_sites, find_sites, masked
from fastprune.structure.probe import SiteProbe

NAMES = ("swin", "mask2former")
QUICK = {"samples": 4, "latency": False}


def predictions(model, pixels):
    outputs = model(pixel_values=pixels)
    if hasattr(outputs, "logits"):
        return (outputs.logits,)
    return outputs.class_queries_logits, outputs.masks_queries_logits


def pixels_of(name, count=2):
    return next(staged_samples(name, count, dtype=torch.float64).batches(count))["pixel_values"]


@pytest.mark.parametrize("name", NAMES)
def test_masks_equal_compaction(name):
    assert prove(staged(name)).holds


def test_dimensions_inside_heads_of_windows():
    model = staged("swin")
    assert prove(model, sites=find_inner_sites(model)).holds
    assert prove(model, sites=find_inner_sites(model, shared=True)).holds


def test_what_is_found():
    kinds = [(s.layer, s.kind, s.units, s.outputs) for s in find_sites(staged("swin"))]
    assert kinds == [
        (0, "attention", 2, 16), (0, "ffn", 24, 16), (1, "attention", 2, 16), (1, "ffn", 24, 16),
        (2, "attention", 4, 32), (2, "ffn", 48, 32), (3, "attention", 4, 32), (3, "ffn", 48, 32),
    ]  # fmt: skip
    sites = find_sites(staged("mask2former"))
    decoders = [(site.units, site.outputs) for site in sites if "decoder" in site.name]
    assert decoders == [(24, 32), (24, 32), (20, 32), (20, 32)]
    assert sum(site.kind == "attention" for site in sites) == 5


@pytest.mark.parametrize("name", NAMES)
def test_whole_sublayers_can_go(name):
    model, pixels = staged(name), pixels_of(name)
    sites = find_sites(model)
    masks = random_masks(sites)
    for site in sites[::3]:
        masks[site.name][:] = 0
    with torch.no_grad(), masked(model, masks):
        expected = predictions(model, pixels)
    small = compact(model, masks)
    with torch.no_grad():
        for ours, theirs in zip(predictions(small, pixels), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_a_pass(name):
    """Products counted while the model runs, in the shapes that its modules see."""
    model, pixels = staged(name), pixels_of(name, 1)
    if name == "mask2former":  # so that the last stage, too, fills its windows
        pixels = pixels.repeat(1, 1, 2, 2)
    counted, handles = [], []
    sites = find_sites(model)
    for site in sites:
        block = model.get_submodule(site.block)
        attention = site.kind == "attention"
        for path, linear in block.named_modules():
            if not isinstance(linear, nn.Linear) or ("att" in path) != attention:
                continue

            def count(module, args, output):
                counted.append(args[0].shape[:-1].numel() * module.weight.numel())

            handles.append(linear.register_forward_hook(count))
        if attention:

            def count_pairs(module, args, output):
                windows, tokens, columns = args[0].shape
                counted.append(2 * windows * tokens * tokens * columns)

            handles.append(model.get_submodule(site.name).register_forward_hook(count_pairs))
    with torch.no_grad():
        predictions(model, pixels)
    for handle in handles:
        handle.remove()
    tokens = pixels.shape[-1] ** 2 / 16
    assert price_sites(sites, "macs", tokens).dense == sum(counted)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_go_are_those_priced(name):
    model = staged(name)
    for site in find_sites(model):
        mask = torch.ones(site.units)
        mask[0] = 0
        small = compact(model, {site.name: mask})
        gone = sum(p.numel() for p in model.parameters()) - sum(
            p.numel() for p in small.parameters()
        )
        tables = 49 if site.kind == "attention" else 0  # a column of (2 * 4 - 1)^2 biases
        assert gone == site.weights_per_unit + site.biases_per_unit + tables


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_masks_are_those_of_every_sample_alone(name):
    """Against autograd of the masked model in float64, one sample at a time."""
    model, samples = staged(name), staged_samples(name, 3)
    sites, objective = find_sites(model), make_objective(samples.task, labelled=False, seed=0)
    batch = next(samples.batches(3))
    ids = batch["sample_index"]
    single = copy.deepcopy(model).float()
    with watch_gradients(single, sites) as gradients:
        gradients.begin(3, None)
        objective(single(pixel_values=batch["pixel_values"]), batch, ids).sum().backward()
        found = gradients.take()
    for row, index in enumerate(ids.tolist()):
        masks = {site.name: torch.ones(site.units).double() for site in sites}
        for mask in masks.values():
            mask.requires_grad_()
        pixels = samples.collate([index])["pixel_values"].double()
        with masked(model, masks):
            loss = objective(model(pixel_values=pixels), {}, torch.tensor([index]))
        expected = torch.cat(torch.autograd.grad(loss.sum(), list(masks.values())))
        # Sums over up to 256 tokens, 16 columns and a dozen layers, each rounded to float32.
        atol = 256 * 16 * 12 * torch.finfo(torch.float32).eps * expected.abs().max()
        torch.testing.assert_close(found[row].double(), expected, rtol=0, atol=float(atol))


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_removal_follow_the_definition(name, monkeypatch):
    def in_float64(features, teacher, *, out):
        s, t = (F.normalize(x, dim=-1) for x in (features[0], teacher))
        out += (s @ s.T - t @ t.T).square().sum()

    monkeypatch.setattr("fastprune.ops.trajectory_distance", in_float64)
    model, samples = staged(name), staged_samples(name, 1, dtype=torch.float64)
    sites = find_sites(model)
    ffn = [site for site in sites if site.kind == "ffn"]
    pixels = samples.collate([0])["pixel_values"]

    @torch.no_grad()
    def features():
        probes = [SiteProbe(model, site).__enter__() for site in ffn]
        found = predictions(model, pixels)
        for probe in probes:
            probe.__exit__(None)
        return [F.normalize(probe.output.flatten(0, -2)) for probe in probes], found

    def kl(theirs, ours):
        p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
        return (p.exp() * (p - q)).sum()

    losses = score_units(model, sites, samples)
    dense, logits = features()
    start = 0
    for site in sites:
        for unit in (0, site.units - 1):
            mask = torch.ones(site.units)
            mask[unit] = 0
            with masked(model, {site.name: mask}):
                ours, changed = features()
            distance = sum(
                (s @ s.T - t @ t.T).square().sum()
                for s, t, other in zip(ours, dense, ffn, strict=True)
                if other.layer > site.layer or site.layer == other.layer == ffn[-1].layer
            )
            divergence = kl(logits[0], changed[0])
            if name == "mask2former":
                both = [torch.stack([x, torch.zeros_like(x)], -1) for x in (logits[1], changed[1])]
                divergence = divergence + kl(*both)
            torch.testing.assert_close(
                losses.trajectory[start + unit], distance, rtol=1e-6, atol=1e-9
            )
            torch.testing.assert_close(
                losses.prediction[start + unit], 16 * divergence, rtol=1e-6, atol=1e-9
            )
        start += site.units


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [None, "optin", "spp", "spp-passes", "magnitude", "random"])
def test_pruning_from_end_to_end(name, method, tmp_path):
    if (name, method) == ("mask2former", "spp-passes"):
        pytest.skip("hundreds of passes: Swin shows it")
    model, samples = staged(name).float(), staged_samples(name)
    scored = {"eval_data": samples} if name == "swin" else {}
    result = prune(model, samples, "macs=0.6", method=method, **QUICK, **scored)
    assert (result.report.method, result.report.tune) == (method or "fisher", "bias")
    assert 0.5 < result.report.macs.kept <= 0.6
    assert set(result.report.units) == {"heads", "filters"}
    result.save_pretrained(tmp_path / "out")
    pixels = pixels_of(name).float()
    torch.save(pixels, tmp_path / "pixels.pt")
    with torch.no_grad():
        expected = predictions(result.model, pixels)
        again = predictions(fastprune.load_pretrained(tmp_path / "out"), pixels)
    for ours, theirs in zip(again, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_another_process_reads_what_was_saved(tmp_path):
    model = staged("swin").float()
    small = compact(model, random_masks(find_sites(model)))
    fastprune.save_pretrained(small, tmp_path / "out")
    pixels = pixels_of("swin").float()
    torch.save(pixels, tmp_path / "pixels.pt")
    program = (
        "import sys, torch, fastprune, transformers\n"
        "model = transformers.AutoModelForImageClassification.from_pretrained(sys.argv[1]).eval()\n"
        "with torch.no_grad():\n"
        "    torch.save(model(torch.load(sys.argv[2])).logits, sys.argv[3])\n"
    )
    paths = [str(tmp_path / name) for name in ("out", "pixels.pt", "logits.pt")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True, capture_output=True)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), small(pixels).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "weights"}, "use tune bias or none"),
        ({"tune": "scale"}, "use tune bias or none"),
        ({"method": "obs"}, "use method fisher, optin or spp"),
        ({"method": "kprune"}, "use method fisher, optin or spp"),
        ({"budget": "latency=0.7"}, "use a budget in macs or params"),
        ({"tokens": 0.2}, "token"),
        ({"uniform": True}, "uniform"),
    ],
)
def test_what_needs_layers_at_one_width_is_refused(options, message):
    given = {"budget": 0.5, **QUICK, **options}
    with pytest.raises(FastpruneError, match=message):
        prune(staged("swin").float(), staged_samples("swin"), **given)


def test_statistics_of_everything_are_refused_in_one_line():
    with pytest.raises(DataError, match="output_fisher=False"):
        collect_statistics(staged("swin").float(), staged_samples("swin"))


def test_comparisons_leave_out_what_does_not_fit():
    samples = staged_samples("swin")
    found = fastprune.compare(
        staged("swin").float(), samples, samples, ["macs=0.6"], methods=["obs", "fisher"],
        tunes=["none", "weights"], seeds=(0,), samples=4,
    )  # fmt: skip
    assert [str(way) for way in found.ways] == ["fisher, none"]
    assert len(found.left_out) == 3


def test_segments_have_no_score_and_no_labels():
    model, samples = staged("mask2former").float(), staged_samples("mask2former")
    with pytest.raises(FastpruneError, match="no score for segmentation"):
        prune(model, samples, 0.5, eval_data=samples, **QUICK)
    with pytest.raises(DataError, match="label"):
        prune(model, samples, 0.5, targets="labels", **QUICK)


def test_divergence_of_segments():
    model, pixels = staged("mask2former"), pixels_of("mask2former")
    divergence = Divergence("segmentation", 0, temperature=1.0)
    with torch.no_grad():
        outputs = model(pixel_values=pixels)
    theirs = divergence.prediction(outputs, {})
    assert torch.equal(divergence.between(theirs, theirs, {}), torch.zeros(2).double())
    moved = tuple(x + 0.1 * torch.randn_like(x) for x in theirs)
    assert (divergence.between(moved, theirs, {}) > 0).all()
