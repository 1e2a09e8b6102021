"""Blocks, and what follows them, from a point already reached."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, tiny
from tiny_samples import samples_for

from fastprune import find_sites
from fastprune.calibration.recorder import record
from fastprune.calibration.replay import known_hidden, known_output, run_block
from fastprune.data.samples import model_inputs
from fastprune.structure.declaration import anatomy
from fastprune.structure.probe import SiteProbe


def entered(model, samples):
    """What the first block gets from the first batch."""
    batch = next(samples.batches(3))
    trace = record(model, anatomy(model).blocks, [batch], torch.float32)
    (recorded,) = trace.batches
    return recorded.unpack(trace.hidden), recorded.calls[0], batch


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attention", "ffn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_output_replaces_its_projection_and_what_leads_to_it(family, kind):
    model, samples = tiny(family), samples_for(family)
    found = anatomy(model)
    block = model.get_submodule(found.blocks[0])
    hidden, call, _ = entered(model, samples)
    site = next(site for site in find_sites(model) if site.kind == kind)
    with SiteProbe(model, site) as probe:
        expected = run_block(block, hidden, call)
    # Whoever computed with these would hand on nothing but NaN.
    sublayer = found.declaration.attention if kind == "attention" else found.declaration.ffn
    for path in (*sublayer.inputs, sublayer.output):
        block.get_submodule(path).weight.data.fill_(torch.nan)
    rows = probe.output.flatten(0, -2)
    with known_output(model, found.declaration, site, rows):
        assert torch.equal(run_block(block, hidden, call), expected)
    assert run_block(block, hidden, call).isnan().any()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_runs_on_known_hidden_states(family):
    model, samples = tiny(family), samples_for(family)
    blocks = anatomy(model).blocks
    batch = next(samples.batches(3))
    seen = []
    hook = model.get_submodule(blocks[-1]).register_forward_hook(lambda *args: seen.append(args[2]))
    expected = model(**model_inputs(batch))[0]
    hook.remove()
    in_tuple = isinstance(seen[0], tuple)
    hidden = seen[0][0] if in_tuple else seen[0]
    for path in blocks:
        for parameter in model.get_submodule(path).parameters():
            parameter.data.fill_(torch.nan)
    with known_hidden(model, blocks, hidden, in_tuple=in_tuple):
        assert torch.equal(model(**model_inputs(batch))[0], expected)
    assert model(**model_inputs(batch))[0].isnan().any()
