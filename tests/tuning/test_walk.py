"""One pass of teacher and student: whatever is kept or forgotten on the way, the result is one."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny
from tiny_samples import samples_for, text_samples

from fastprune import collect_statistics, compact, find_sites
from fastprune.calibration.recorder import Recorder, record
from fastprune.calibration.trace import depth_within
from fastprune.data.samples import model_inputs
from fastprune.errors import DataError
from fastprune.structure import get_projection
from fastprune.structure.declaration import anatomy
from fastprune.structure.probe import SiteProbe
from fastprune.tuning import TUNERS, tune
from fastprune.tuning.student import Student
from fastprune.tuning.system import LeastSquares

FLOAT, HALF = torch.float32, torch.bfloat16


@pytest.fixture
def short_spans(monkeypatch):
    """Tokens go on five at a time and wait eleven at a time, instead of thousands."""
    monkeypatch.setattr("fastprune.tuning.student._SPAN", 11)
    monkeypatch.setattr("fastprune.tuning.student.batch_tokens", lambda model, dtype: 5)


def tuned_weights(model, samples, trace=None, dtype=FLOAT):
    student = compact(model, random_masks(find_sites(model)))
    tune(model, student, samples, TUNERS["weights"], trace=trace, batch_size=3, dtype=dtype)
    return [get_projection(student, site)[0] for site in find_sites(student)]


def recorded(model, samples, depth, dtype=FLOAT):
    """The trace of a calibration pass, which runs under autograd."""
    blocks = anatomy(model).blocks
    recorder = Recorder(model, blocks, sites=find_sites(model), depth=depth, dtype=dtype)
    collect_statistics(model, samples, batch_size=3, recorder=recorder, dtype=dtype)
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


@pytest.mark.parametrize("family", ["bert", "electra", "gpt2", "llama", "vit"])
def test_in_half_precision_too(family):
    """Recorded or not, the products are the same ones: what differs is the attention kernel."""
    model, samples = tiny(family).float(), samples_for(family)
    trace = recorded(model, samples, 2, HALF)
    assert trace.outputs
    assert {output.dtype for output in trace.outputs.values()} == {HALF}
    ours = tuned_weights(model, samples, trace, HALF)
    theirs = tuned_weights(model, samples, dtype=HALF)
    exact = tuned_weights(model, samples)
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert torch.isfinite(a).all()
        # bfloat16 has 8 bits: a few units of rounding, amplified by the solves.
        assert (a - b).norm() <= 0.1 * b.norm()
        assert (a - c).norm() <= 0.1 * c.norm()


def test_a_trace_of_another_model_is_refused():
    samples = text_samples("classification")
    trace = recorded(tiny("bert").float(), samples, 2)
    other = tiny("bert", num_hidden_layers=2).float()
    with pytest.raises(DataError, match="another model"):
        tuned_weights(other, samples, trace)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_ffns_cut_into_chunks_of_tokens_make_no_difference(family):
    model, samples = tiny(family).float(), samples_for(family)
    expected = collect_statistics(model, samples).blocks, tuned_weights(model, samples)
    chunked = [m for m in model.modules() if hasattr(m, "chunk_size_feed_forward")]
    for module in chunked:
        module.chunk_size_feed_forward = 1
    assert torch.equal(collect_statistics(model, samples).blocks, expected[0])
    assert close(tuned_weights(model, samples), expected[1])
    assert chunked
    assert all(module.chunk_size_feed_forward == 1 for module in chunked)


def test_errors_by_sums_are_errors_by_tokens():
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(300, n, generator=generator) for n in (12, 7))
    weight = torch.randn(7, 12, generator=generator)
    by_sums, by_tokens = (LeastSquares(12, 7, x.device) for _ in range(2))
    by_sums.add(x, target)
    by_sums.subtract(weight)
    by_tokens.add(x, target - x @ weight.T)
    for name in ("gram", "cross", "x_sum", "error_sum", "error"):
        ours, theirs = getattr(by_sums, name), getattr(by_tokens, name)
        # Sums of 300 products in float32.
        assert torch.allclose(ours, theirs, rtol=300 * 2**-23, atol=300 * 2**-23 * 300), name


@pytest.mark.parametrize("spare", [True, False])
def test_either_way_of_finding_errors_tunes_alike(spare, monkeypatch):
    model, samples = tiny("bert").float(), samples_for("bert")
    expected = tuned_weights(model, samples)
    monkeypatch.setattr("fastprune.tuning.walk._digits_to_spare", lambda *_: spare)
    assert close(tuned_weights(model, samples), expected)


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


@pytest.mark.usefixtures("short_spans")
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_may_wait_in_small_companies(family, monkeypatch):
    model, samples = tiny(family).float(), samples_for(family)
    small = tuned_weights(model, samples)
    monkeypatch.setattr("fastprune.tuning.student.held_bytes", lambda device: 0)
    forgetful = tuned_weights(model, samples)
    monkeypatch.undo()
    expected = tuned_weights(model, samples)
    assert close(small, expected)
    assert close(forgetful, expected)


@pytest.mark.usefixtures("short_spans")
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
                halts = [(halt.x.clone(), halt.residual.clone()) for halt in walk.halts(site)]
                for found, theirs in zip(zip(*halts, strict=True), expected, strict=True):
                    assert torch.allclose(torch.cat(found), theirs, atol=1e-5), site.name
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
