"""What a vision model loses with each token: of every position, at every block."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fastprune.data import Samples
from fastprune.data.samples import model_inputs
from fastprune.device import autocast, batch_tokens, device_of, evaluation_mode, to_device
from fastprune.errors import NumericalError
from fastprune.merging.reduction import refuse_reduced, token_counts
from fastprune.optin.ending import DISTILLATION
from fastprune.optin.mixing import PREDICTION_WEIGHT
from fastprune.progress import progress_bar
from fastprune.structure.declaration import anatomy

IMAGES = 32
"""Images that are compared with each other, as in the authors' code."""


@torch.no_grad()
def score_tokens(
    model: nn.Module,
    samples: Samples,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> NDArray[np.float64]:
    """Leave out every token at every block, one at a time, and see what changes.

    OPTIN (Khaki & Plataniotis, ICLR 2024, arXiv 2403.17921), Algorithm 1, for tokens. Features of a
    token are the hidden states that enter a block, or leave the last one, at unit length; a Gram
    holds their products between images, averaged over positions. A token is worth the squared
    distance (Frobenius) of the Grams with and without it, summed over what follows the block it is
    missing from, plus 0.1 x 16 times the Kullback-Leibler divergence of the predictions, summed
    over images. The authors' code takes one pass of the whole model per token and block; here a
    pass begins where the token is missing, and carries as many variants as fit.

    Args:
        model: ViT or DeiT with a classifier, pruned or not, with all its tokens; left as it was.
        samples: images; 32 are drawn, or all, and no label is used.
        seed: of the draw.
        batch_size: images per pass; by default as many as keep the device busy. A pass has one
            variant of all drawn images at least.
        dtype: autocast type of the passes. A half type rounds away much of what one token does.
        progress: show a progress bar.

    Returns:
        [blocks, patches]; infinite for the first block, which gets all tokens.

    Raises:
        UnsupportedModelError: another model.
        NumericalError: losses that are not finite.
    """
    refuse_reduced(model, "score a model with all its tokens")
    tokens, special = token_counts(model)
    drawn = samples.draw(min(IMAGES, len(samples)), seed)
    images = batch_size or batch_tokens(model, dtype) // tokens
    at_once = max(1, images // len(drawn))
    layers, patches = len(anatomy(model).blocks), tokens - special
    scores = np.full((layers, patches), np.inf)
    with (
        evaluation_mode(model),
        autocast(device_of(model), dtype),
        progress_bar(
            "score tokens", total=(layers - 1) * patches, enabled=progress, unit="token"
        ) as bar,
    ):
        passage = _Passage(model, drawn)
        for layer in range(1, layers):
            found = []
            for positions in torch.arange(special, tokens).split(at_once):
                found.append(passage.losses(layer, positions))
                bar.update(len(positions))
            scores[layer] = torch.cat(found).cpu().numpy()
    if not np.isfinite(scores[1:]).all():
        raise NumericalError(
            "scores of tokens are not finite; check the images and the weights, or use float32"
        )
    return scores


class _Passage:
    """What a model does with some images, and what it would do without one of their tokens."""

    def __init__(self, model: nn.Module, samples: Samples) -> None:
        self._model = model
        self._blocks = [model.get_submodule(path) for path in anatomy(model).blocks]
        self._images = len(samples)
        self._entered: list[Tensor] = []
        hooks = [block.register_forward_pre_hook(self._note) for block in self._blocks]
        batch = to_device(samples.collate(range(len(samples))), device_of(model))
        try:
            logits = model(**model_inputs(batch)).logits
        finally:
            for hook in hooks:
                hook.remove()
        self._predicted = logits.double().log_softmax(-1)
        self._grams = [self._gram(hidden) for hidden in self._entered[1:]]
        self._grams.append(self._gram(self._blocks[-1](self._entered[-1])))

    def _note(self, block: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._entered.append(args[0])

    def losses(self, layer: int, positions: Tensor) -> Tensor:
        """What is lost with each of some tokens from a block on: float64 [positions]."""
        count, tokens = len(positions), self._entered[layer].shape[1]
        # Row by row, all tokens but one.
        others = torch.arange(tokens - 1).expand(count, -1)
        others = (others + (others >= positions[:, None])).to(self._entered[layer].device)
        hidden = self._entered[layer][:, others].transpose(0, 1).flatten(0, 1)
        lost = torch.zeros(count, dtype=torch.float64, device=hidden.device)
        for block, gram in zip(self._blocks[layer:], self._grams[layer:], strict=True):
            hidden = block(hidden)
            lost += (self._gram(hidden) - gram).double().square().sum((1, 2))
        predicted = self._head(hidden).double().log_softmax(-1).unflatten(0, (count, -1))
        divergence = F.kl_div(
            predicted, self._predicted.expand_as(predicted), reduction="none", log_target=True
        )
        return lost + PREDICTION_WEIGHT * DISTILLATION * divergence.sum((1, 2)).clamp(min=0)

    def _gram(self, hidden: Tensor) -> Tensor:
        """Products between images, averaged over positions.

        Args:
            hidden: [variants * images, tokens, width].

        Returns:
            [variants, images, images], float32 or float64.
        """
        exact = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            features = F.normalize(hidden.to(exact), dim=-1).flatten(1)
            features = features.unflatten(0, (-1, self._images))
            return features @ features.mT / hidden.shape[1]

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits: classifiers of ViT and DeiT read the first token, after the last norm."""
        model = self._model
        first = model.base_model.layernorm(hidden[:, 0])  # type: ignore[union-attr, operator]
        return model.classifier(first)  # type: ignore[operator]
