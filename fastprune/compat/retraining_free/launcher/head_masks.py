"""``model(head_mask=…)``, which transformers 5 ignores without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from fastprune.compat.retraining_free.launcher.attributes import attribute
from fastprune.structure import find_sites
from fastprune.structure.masking import masked


@contextmanager
def head_masks_applied() -> Iterator[None]:
    """Within the context, models multiply the outputs of their heads by ``head_mask``.

    ``[layers, heads]``, as transformers 4 took it; gradients with respect to it are the same.
    """
    plain = nn.Module.__call__

    def call(self: Any, *args: Any, head_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if head_mask is None:
            return plain(self, *args, **kwargs)
        heads = [site for site in find_sites(self) if site.kind == "attention"]
        with masked(self, {site.name: head_mask[site.layer] for site in heads}):
            return plain(self, *args, **kwargs)

    with attribute(PreTrainedModel, "__call__", call):
        yield
