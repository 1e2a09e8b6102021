"""Tuning against problems whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny
from tiny_samples import image_samples, text_samples

from fastprune import compact, find_sites
from fastprune.structure import get_projection, masked, set_projection
from fastprune.tuning import TUNERS, Tuner, tune, tune_together
from fastprune.tuning.readout import find_readout
from fastprune.tuning.solvers import SolveFailure, Update


def samples_for(family: str):
    task = {"vit": "image", "deit": "image"}.get(family)
    if task:
        return image_samples(12)
    names = {"bert": "classification", "electra": "classification", "distilbert": "classification"}
    return text_samples(names.get(family, "embedding"), 24)


def outputs(model, samples):
    (batch,) = samples.batches(len(samples))
    batch.pop("sample_index")
    batch.pop("labels", None)
    with torch.no_grad():
        found = model(**batch)
    return found[0].double()


@pytest.mark.parametrize("method", ["weights", "scale"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_lost_nothing_is_left_alone(family, method):
    model = tiny(family).float()
    student = compact(model, {})
    report = tune(model, student, samples_for(family), TUNERS[method])
    assert [entry.site for entry in report] == [site.name for site in find_sites(model)]
    assert all(entry.failure is None for entry in report)
    assert all(entry.relative_error < 1e-10 for entry in report)
    for site in find_sites(model):
        before, after = (get_projection(m, site)[0] for m in (model, student))
        # What is left to correct is rounding: 100 eps relative to the largest weight.
        assert (before - after).abs().max() <= 1e-4 * before.abs().max()


@pytest.mark.parametrize("method", ["weights", "scale"])
@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_projections_are_restored(family, method):
    """Units rescaled one by one: both methods can undo that, through every layer."""
    model = tiny(family).float()
    student = compact(model, {})
    for site in find_sites(student):
        weight, _ = get_projection(student, site)
        damage = torch.linspace(0.8, 1.25, site.units).repeat_interleave(site.group)
        set_projection(student, site, weight * damage)
    samples = samples_for(family)
    expected = outputs(model, samples)
    before = (outputs(student, samples) - expected).square().mean()
    tune(model, student, samples, TUNERS[method])
    after = (outputs(student, samples) - expected).square().mean()
    assert after < 0.05 * before


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama", "vit"])
def test_tuning_brings_a_pruned_model_closer(family):
    model = tiny(family).float()
    masks = random_masks(find_sites(model))
    samples = samples_for(family)
    expected = outputs(model, samples)
    student = compact(model, masks)
    before = (outputs(student, samples) - expected).square().mean()
    tune(model, student, samples, TUNERS["weights"])
    assert (outputs(student, samples) - expected).square().mean() < before


def test_an_emptied_ffn_keeps_a_corrected_bias():
    model = tiny("bert").float()
    last = find_sites(model)[-1]
    student = compact(model, {last.name: torch.zeros(last.units)})
    samples = samples_for("bert")
    report = tune(model, student, samples, TUNERS["weights"])
    seen = []
    handle = model.bert.encoder.layer[-1].output.dense.register_forward_hook(
        lambda module, args, out: seen.append(out[:, 0])
    )
    outputs(model, samples)
    handle.remove()
    assert report[-1].site == last.name
    _, bias = get_projection(student, last)
    assert torch.allclose(bias, torch.cat(seen).mean(0), atol=1e-4)


def test_padding_and_batch_size_do_not_matter():
    model = tiny("bert").float()
    masks = random_masks(find_sites(model))
    samples = samples_for("bert")
    tuned = []
    for batch_size in (1, 24):
        student = compact(model, masks)
        tune(model, student, samples, TUNERS["weights"], batch_size=batch_size)
        tuned.append(outputs(student, samples))
    assert (tuned[0] - tuned[1]).abs().max() <= 1e-3 * tuned[0].abs().max()


def test_teacher_and_modes_are_untouched():
    model = tiny("bert").float().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = compact(model, random_masks(find_sites(model)))
    tune(model, student, samples_for("bert"), TUNERS["weights"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for m in (model, student) for module in m.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_site_that_cannot_be_solved_keeps_its_values_and_spoils_nothing():
    model = tiny("bert").float()
    sites = find_sites(model)
    student = compact(model, random_masks(sites))
    broken = find_sites(student)[2]

    def solve(site, system, weight, bias):
        if site.name == broken.name:
            system.gram[0] = float("nan")
        return TUNERS["weights"].solve(site, system, weight, bias)

    kept = get_projection(student, broken)[0].clone()
    report = {
        entry.site: entry for entry in tune(model, student, samples_for("bert"), Tuner(solve))
    }
    assert torch.equal(get_projection(student, broken)[0], kept)
    failures = [name for name, entry in report.items() if entry.failure]
    assert failures == [broken.name]
    assert all(torch.isfinite(p).all() for p in student.parameters())


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", "first"), ("electra", "first"), ("vit", "first"), ("roberta", "all"),
     ("xlm-roberta", "all"), ("gpt2", "all"), ("llama", "all")],
)  # fmt: skip
def test_the_tokens_a_task_reads_are_found(family, expected):
    model = tiny(family).float()
    blocks = sorted({site.block for site in find_sites(model)})
    assert find_readout(model, blocks[-1], samples_for(family)) == expected


def test_a_decoder_that_classifies_reads_its_last_token():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    config.pad_token_id = 0
    model = GPT2ForSequenceClassification(config).eval()
    samples = text_samples("classification", 8)
    assert find_readout(model, "transformer.h.1", samples) == "last"


def test_the_masked_model_is_what_was_compacted():
    """Tuning starts from the compacted model: the same function as the masked one."""
    model = tiny("bert").float()
    masks = random_masks(find_sites(model))
    samples = samples_for("bert")
    with masked(model, masks):
        expected = outputs(model, samples)
    assert torch.allclose(outputs(compact(model, masks), samples), expected, atol=1e-5)


def test_samples_of_one_token_do_not_hide_what_is_read():
    model = tiny("llama").float()
    samples = text_samples("causal-lm", 8)
    short = [{name: values[:1] for name, values in s.items()} for s in samples.features]
    mixed = replace(samples, features=[*short[:6], *samples.features[6:]])
    blocks = sorted({site.block for site in find_sites(model)})
    assert find_readout(model, blocks[-1], mixed) == "all"
    assert find_readout(model, blocks[-1], replace(samples, features=short)) == "all"


@pytest.mark.parametrize("method", ["weights", "scale"])
def test_students_side_by_side_come_out_as_alone(method):
    model, samples = tiny("bert").float(), samples_for("bert")
    sites = find_sites(model)
    masks = [random_masks(sites, seed) for seed in range(3)]
    together = [compact(model, m) for m in masks]
    reports = tune_together(model, together, samples, TUNERS[method])
    for mask, student, report in zip(masks, together, reports, strict=True):
        alone = compact(model, mask)
        assert tune(model, alone, samples, TUNERS[method]) == report
        for ours, theirs in zip(alone.parameters(), student.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_the_teacher_runs_once_for_all_students():
    model, samples = tiny("bert").float(), samples_for("bert")
    students = [compact(model, random_masks(find_sites(model), seed)) for seed in range(3)]
    calls = []
    layer = model.bert.encoder.layer[-1]
    layer.output.dense.register_forward_hook(lambda *_: calls.append(1))
    tune(model, compact(students[0], {}), samples, TUNERS["weights"], batch_size=4)
    alone = len(calls)
    calls.clear()
    tune_together(model, students, samples, TUNERS["weights"], batch_size=4)
    assert len(calls) == alone


def test_one_student_whose_tuning_ends_does_not_end_that_of_others():
    model, samples = tiny("bert").float(), samples_for("bert")
    sites = find_sites(model)
    students = [compact(model, random_masks(sites, seed)) for seed in range(2)]
    second = find_sites(students[0])[1]

    def solve(site, system, weight, bias):
        here = get_projection(students[0], second)[0]
        if site.name == second.name and weight.data_ptr() == here.data_ptr():
            raise SolveFailure("on purpose")
        return Update(weight)

    tuner = Tuner(solve, stop_at_failure=True)
    ended, whole = tune_together(model, students, samples, tuner)
    assert [entry.failure for entry in ended] == [None, "on purpose"]
    assert len(whole) == len(sites)
    assert all(entry.failure is None for entry in whole)
