"""The original's way through the whole pipeline, in plain PyTorch and SciPy, for BERT classifiers.

Kwon et al. 2022 as released: batches of 32 in random order, padded to their longest sample;
gradients of mini-batch means; exchanges of units evaluated on the gradient rows; a student of full
size under masks; every layer run four times (teacher and student, for attention and for the FFN);
damped LSMR. Two things are kinder than the release: it goes on where a system fails, and collecting
the inputs of the first layer does not run the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import textbook
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastprune import Samples, find_sites, parse_budget
from fastprune.budget import price_sites
from fastprune.data.samples import model_inputs
from fastprune.selection import search_masks
from fastprune.structure import Site

BATCH = 32
Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """The inputs of a layer for one batch."""

    teacher: Tensor
    student: Tensor
    arguments: tuple[Any, ...]
    valid: Tensor


@dataclass
class Sublayer:
    """What a layer's run showed of one sublayer."""

    x: Tensor
    residual: Tensor
    output: Tensor


def prune(model: Any, samples: Samples, share: float) -> Masks:
    """Tuned masks at a share of the MACs, by site; zero = pruned."""
    sites = find_sites(model)
    grads = mask_gradients(model, samples, sites)
    importance = torch.cat([grads[site.name].square().sum(0) for site in sites])
    prices = price_sites(sites, "macs", samples.mean_length)
    budget = parse_budget(share)
    halfway = budget.part_way(prices.dense, 0.5)
    found, teacher = search_masks(importance, prices, [budget, halfway])
    sizes = [site.units for site in sites]
    named = dict(zip((site.name for site in sites), found.split(sizes), strict=True))
    masks = {name: textbook.greedy_rearrange(grads[name], mask) for name, mask in named.items()}
    imitated = dict(zip(masks, teacher.split(sizes), strict=True))
    return tune(model, samples, sites, masks, imitated)


def mask_gradients(model: Any, samples: Samples, sites: list[Site]) -> Masks:
    """Gradient rows [mini-batches, units] of every site."""
    device = model.device
    rows: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    with _frozen(model):
        for batch in samples.batches(BATCH, bucketed=False):
            batch = {key: value.to(device) for key, value in batch.items()}
            masks = {
                site.name: torch.ones(site.units, device=device, requires_grad=True)
                for site in sites
            }
            with _masked(model, sites, masks):
                loss = F.cross_entropy(model(**model_inputs(batch)).logits, batch["labels"])
            for name, gradient in zip(
                masks, torch.autograd.grad(loss, list(masks.values())), strict=True
            ):
                rows[name].append(gradient)
    return {name: torch.stack(found) for name, found in rows.items()}


@torch.no_grad()
def tune(model: Any, samples: Samples, sites: list[Site], masks: Masks, teacher: Masks) -> Masks:
    """Rescale what is kept, layer by layer."""
    batches = list(_first_inputs(model, samples))
    attentions = [site for site in sites if site.kind == "attention"]
    ffns = [site for site in sites if site.kind == "ffn"]
    layers = model.bert.encoder.layer
    for layer, attention, ffn in zip(layers, attentions, ffns, strict=True):
        last = layer is layers[-1]
        if layer is not layers[0]:
            pairs = [_problem(model, layer, b, attention, sites, masks, teacher) for b in batches]
            masks[attention.name] = _rescaled(masks[attention.name], attention, model, pairs)
        runs = []
        for batch in batches:
            with _masked(model, sites, teacher):
                wanted, teacher_out = _run(layer, batch.teacher, batch.arguments)
            with _masked(model, sites, masks):
                seen, _ = _run(layer, batch.student, batch.arguments)
            runs.append((batch, wanted[1], seen[1], teacher_out))
        pairs = [_rows(b, wanted, seen, ffn, model, cls=last) for b, wanted, seen, _ in runs]
        masks[ffn.name] = _rescaled(masks[ffn.name], ffn, model, pairs)
        batches = [
            Batch(
                teacher_out,
                layer.output.LayerNorm(
                    layer.output.dense(seen.x * masks[ffn.name]) + seen.residual
                ),
                batch.arguments,
                batch.valid,
            )
            for batch, _, seen, teacher_out in runs
        ]
    return masks


def _problem(
    model: Any,
    layer: Any,
    batch: Batch,
    site: Site,
    sites: list[Site],
    masks: Masks,
    teacher: Masks,
) -> tuple[Tensor, Tensor]:
    with _masked(model, sites, teacher):
        wanted, _ = _run(layer, batch.teacher, batch.arguments)
    with _masked(model, sites, masks):
        seen, _ = _run(layer, batch.student, batch.arguments)
    return _rows(batch, wanted[0], seen[0], site, model, cls=False)


def _rows(
    batch: Batch, wanted: Sublayer, seen: Sublayer, site: Site, model: Any, *, cls: bool
) -> tuple[Tensor, Tensor]:
    """Inputs of a projection and what it is to give, for the tokens that count."""
    bias = model.get_submodule(site.name).bias
    target = wanted.output + wanted.residual - seen.residual - bias
    if cls:
        return seen.x[:, 0], target[:, 0]
    return seen.x[batch.valid], target[batch.valid]


def _rescaled(mask: Tensor, site: Site, model: Any, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The mask with its kept units scaled."""
    kept = mask.nonzero().flatten()
    if not len(kept):
        return mask
    columns = kept[:, None] * site.group + torch.arange(site.group, device=mask.device)
    columns = columns.flatten()
    weight = model.get_submodule(site.name).weight[:, columns]
    batches = [(x[:, columns], target) for x, target in pairs]
    scales = (
        textbook.tune_filters(batches, weight)
        if site.kind == "ffn"
        else textbook.tune_heads(batches, weight, site.group)
    )
    return mask.index_put((kept,), scales)


def _first_inputs(model: Any, samples: Samples) -> Iterator[Batch]:
    caught: list[tuple[Tensor, tuple[Any, ...]]] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args[0], (args[1:], kwargs)))
        raise _Caught

    handle = model.bert.encoder.layer[0].register_forward_pre_hook(catch, with_kwargs=True)
    for batch in samples.batches(BATCH, bucketed=False):
        inputs = {key: value.to(model.device) for key, value in model_inputs(batch).items()}
        try:
            model(**inputs)
        except _Caught:
            hidden, arguments = caught.pop()
            yield Batch(hidden, hidden, arguments, inputs["attention_mask"].bool())
    handle.remove()


class _Caught(Exception):
    pass


def _run(layer: Any, hidden: Tensor, arguments: Any) -> tuple[tuple[Sublayer, Sublayer], Tensor]:
    """Run one layer; what its attention and its FFN did, and its output."""
    projections = layer.attention.output.dense, layer.output.dense
    residuals = layer.attention.self.query, layer.intermediate.dense
    seen: list[Any] = [None] * 4
    with ExitStack() as hooks:
        for i, (residual, projection) in enumerate(zip(residuals, projections, strict=True)):
            hooks.callback(residual.register_forward_pre_hook(_store(seen, i)).remove)
            hooks.callback(projection.register_forward_hook(_store(seen, 2 + i)).remove)
        args, kwargs = arguments
        output = layer(hidden, *args, **kwargs)
    attention, ffn = (Sublayer(seen[2 + i][0], seen[i][0], seen[2 + i][1]) for i in (0, 1))
    return (attention, ffn), output[0] if isinstance(output, tuple) else output


def _store(seen: list[Any], i: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        seen[i] = (args[0], output)

    return hook


@contextmanager
def _masked(model: Any, sites: list[Site], masks: Mapping[str, Tensor]) -> Iterator[None]:
    with ExitStack() as hooks:
        for site in sites:
            columns = masks[site.name].repeat_interleave(site.group)
            module = model.get_submodule(site.name)
            hook = module.register_forward_pre_hook(lambda _, args, m=columns: (args[0] * m,))
            hooks.callback(hook.remove)
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    yield
    for parameter in model.parameters():
        parameter.requires_grad_(True)
