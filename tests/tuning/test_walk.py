"""One pass of teacher and student: whatever is kept or forgotten on the way, the result is one."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny
from tiny_samples import samples_for, text_samples

from fastprune import collect_statistics, compact, find_sites
from fastprune.calibration.trace import Recorder, depth_within, record
from fastprune.data.samples import model_inputs
from fastprune.structure import get_projection
from fastprune.structure.declaration import anatomy
from fastprune.structure.probe import SiteProbe
from fastprune.tuning import TUNERS, tune
from fastprune.tuning.student import Student

FLOAT = torch.float32


def tuned_weights(model, samples, trace=None):
    student = compact(model, random_masks(find_sites(model)))
    tune(model, student, samples, TUNERS["weights"], trace=trace, batch_size=3)
    return [get_projection(student, site)[0] for site in find_sites(student)]


def recorded(model, samples, depth):
    """The trace of a calibration pass, which runs under autograd."""
    blocks = anatomy(model).blocks
    recorder = Recorder(model, blocks, sites=find_sites(model), depth=depth)
    collect_statistics(model, samples, batch_size=3, recorder=recorder)
    return recorder.trace()


def close(ours, theirs):
    # The same products in other batches or kernels: rounding, amplified by the solves.
    return all(
        (a - b).abs().max() <= 1e-3 * b.abs().max() for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("depth", [0, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_calibration_pass_serves_as_teacher(family, depth):
    model, samples = tiny(family).float(), samples_for(family)
    trace = recorded(model, samples, depth)
    assert trace.depth == depth
    assert close(tuned_weights(model, samples, trace), tuned_weights(model, samples))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_pass_leaves_the_statistics_as_they_are(family):
    model, samples = tiny(family).float(), samples_for(family)
    blocks = anatomy(model).blocks
    recorder = Recorder(model, blocks, sites=find_sites(model), depth=3)
    watched = collect_statistics(model, samples, recorder=recorder)
    assert torch.equal(watched.blocks, collect_statistics(model, samples).blocks)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(output.requires_grad for output in recorder.trace().outputs.values())


@pytest.mark.parametrize("limit", [0, 3000])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit_into_memory_is_computed_again(family, limit, monkeypatch):
    model, samples = tiny(family).float(), samples_for(family)
    expected = tuned_weights(model, samples)
    monkeypatch.setattr("fastprune.tuning.student.held_bytes", lambda device: limit)
    assert close(tuned_weights(model, samples), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_halts_computes_what_the_model_computes(family):
    model, samples = tiny(family).float(), samples_for(family)
    student = compact(model, random_masks(find_sites(model)))
    blocks = anatomy(student).blocks
    with torch.no_grad():
        trace = record(student, blocks, samples.batches(3), FLOAT)
        walk = Student(student, trace)
        for layer, block in enumerate(blocks):
            walk.enter(layer, block)
            for site in (site for site in find_sites(student) if site.block == block):
                expected = alone(student, site, samples, trace)
                halts = list(walk.halts(site))
                for ours, theirs in zip(("x", "residual"), expected, strict=True):
                    found = torch.cat([getattr(halt, ours) for halt in halts])
                    assert torch.allclose(found, theirs, atol=1e-5), (site.name, ours)
            walk.leave()


def alone(model, site, samples, trace):
    """What a site sees when the whole model runs, batch by batch: its input and its residual."""
    rows = []
    for batch, geometry in zip(samples.batches(3), trace.batches, strict=True):
        with SiteProbe(model, site) as probe:
            model(**model_inputs(batch))
        rows.append([geometry.pack(values) for values in (probe.input, probe.residual)])
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def test_nothing_before_a_projection_is_computed_twice():
    model = tiny("bert").float()
    samples = text_samples("classification")
    student = compact(model, random_masks(find_sites(model)))
    runs = []
    layer = student.bert.encoder.layer[1]
    for module in (layer.attention.self.query, layer.intermediate.dense):
        forward = type(module).forward
        # Counts calls of the layer's own arithmetic; hooks would also count the stand-ins.
        module.forward = lambda x, m=module, f=forward: (runs.append(m), f(m, x))[1]
    tune(model, student, samples, TUNERS["weights"], batch_size=len(samples))
    # The student's projections are the compacted ones; deepcopy kept the counting forward.
    assert [runs.count(m) for m in (layer.attention.self.query, layer.intermediate.dense)] == [1, 1]
    assert "forward" in layer.intermediate.dense.__dict__


def test_as_many_layers_are_recorded_as_fit():
    sites = find_sites(tiny("bert"))
    layer = 2 * 10 * 32 * 4  # two sites, ten tokens of 32 float32
    found = [
        depth_within(sites, 10, FLOAT, limit) for limit in (0, layer - 1, layer, 3 * layer, 10**9)
    ]
    assert found == [0, 0, 1, 3, 3]
    assert depth_within(sites, 10, torch.bfloat16, layer) == 2
