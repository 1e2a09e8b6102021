"""Losses as the method defines them: one unit masked, the whole model run, sample by sample."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from fastprune.data.samples import model_inputs
from fastprune.structure import masked
from fastprune.structure.declaration import anatomy


def losses(model, sites, samples, units):
    """L_MD and L_KD of some units [(index of site, unit)], in the type of the model."""
    dense = run(model, sites, samples)
    found = []
    for index, unit in units:
        site = sites[index]
        mask = torch.ones(site.units)
        mask[unit] = 0
        with masked(model, {site.name: mask}):
            found.append(compare(model, site, run(model, sites, samples), dense, samples))
    return torch.tensor(found, dtype=torch.float64).T


@torch.no_grad()
def run(model, sites, samples):
    """By layer, the outputs of the FFN's projection [tokens, hidden size]; and all outputs."""
    features = {site.layer: [] for site in sites if site.kind == "ffn"}
    outputs = []
    with ExitStack() as stack:
        for site in sites:
            if site.kind == "ffn":
                hook = model.get_submodule(site.name).register_forward_hook(
                    lambda _, __, y, layer=site.layer: features[layer].append(y.flatten(0, -2))
                )
                stack.callback(hook.remove)
        for i in range(len(samples)):
            (batch,) = samples.select([i]).batches(1)
            outputs.append(model(**model_inputs(batch)))
    return {layer: torch.cat(rows) for layer, rows in features.items()}, outputs


def compare(model, site, ours, theirs, samples):
    last = len(anatomy(model).blocks) - 1
    trajectory = 0.0
    for layer in ours[0]:
        if layer > site.layer or layer == last:
            trajectory += float((gram(ours[0][layer]) - gram(theirs[0][layer])).square().sum())
    pairs = zip(ours[1], theirs[1], strict=True)
    return trajectory, sum(divergence(samples.task, a, b) for a, b in pairs)


def gram(rows):
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


def divergence(task, ours, theirs):
    if task == "regression":
        return float((ours.logits - theirs.logits).square().mean())
    if task == "embedding":
        difference = ours.last_hidden_state - theirs.last_hidden_state
        return float(difference.mean(1).square().sum())
    if task == "question-answering":
        start = kl(ours.start_logits, theirs.start_logits)
        return 16 * (start + kl(ours.end_logits, theirs.end_logits)) / 2
    if task == "causal-lm":
        return 16 * kl(ours.logits[:, :-1], theirs.logits[:, :-1])
    return 16 * kl(ours.logits, theirs.logits)


def kl(ours, theirs):
    p, q = theirs.softmax(-1), ours.softmax(-1)
    return float((p * (p / q).log()).sum())
