"""Which token positions of the last layer the task reads."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastprune.calibration.trace import Trace
from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import device_of, to_device

Readout = Literal["first", "last", "all"]
# Samples that are looked at: more would tell the same.
_SAMPLES = 4


def find_readout(model: nn.Module, last_block: str, samples: Samples) -> Readout:
    """Find out from gradients whether a task head reads one token or many.

    A classifier usually reads the first token of an encoder, or the last valid one of a decoder;
    what the last FFN does to other tokens then has no effect (Kwon et al. 2022, section 4.3,
    tune the last FFN of a classifier on ``[CLS]`` alone).

    Args:
        model: in evaluation mode.
        last_block: path of the last Transformer layer.
        samples: at least one; the first few are run.
    """
    # The longest: in a sample of one token, first, last and all are the same.
    longest = sorted(range(len(samples)), key=samples.lengths.__getitem__, reverse=True)
    few = samples.select(longest[:_SAMPLES])
    (batch,) = few.batches(_SAMPLES)
    inputs = model_inputs(to_device(batch, device_of(model)))
    seen: list[Tensor] = []

    def cut(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden.detach().requires_grad_())
        return (seen[0], *output[1:]) if isinstance(output, tuple) else seen[0]

    handle = model.get_submodule(last_block).register_forward_hook(cut)
    try:
        with torch.enable_grad():
            outputs = model(**inputs)
            values = [v for v in outputs.values() if isinstance(v, Tensor) and v.requires_grad]
            # Random weights: a plain sum can cancel, as it does after a softmax or a norm.
            generator = torch.Generator().manual_seed(0)
            total = sum(
                (v.float() * torch.randn(v.shape, generator=generator).to(v.device)).sum()
                for v in values
            )
            (gradient,) = torch.autograd.grad(total, seen)  # type: ignore[arg-type]
    finally:
        handle.remove()
    read = gradient.abs().sum(-1) > 0
    mask = inputs.get("attention_mask")
    valid = torch.ones_like(read) if mask is None else mask.bool()
    if valid.shape != read.shape or torch.equal(read, valid):
        return "all"
    for readout in ("first", "last"):
        if torch.equal(read, select_tokens(readout, valid)):
            return readout
    return "all"


def select_tokens(readout: Readout, valid: Tensor) -> Tensor:
    """The positions a task reads: bool of the shape of ``valid`` [samples, tokens]."""
    if readout == "all":
        return valid
    positions = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    if readout == "first":
        chosen = positions.masked_fill(~valid, valid.shape[1]).amin(1, keepdim=True)
    else:
        chosen = positions.masked_fill(~valid, -1).amax(1, keepdim=True)
    return positions == chosen


def read_rows(readout: Readout, trace: Trace, device: torch.device) -> Tensor | None:
    """Which tokens of a trace a task reads: int64; None = all."""
    if readout == "all":
        return None
    flags = [select_tokens(readout, batch.valid)[batch.valid] for batch in trace.batches]
    return torch.cat(flags).nonzero().flatten().to(device)
