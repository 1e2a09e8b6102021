"""A model in training, under gates or without, as a module that returns its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.cofi.choices import CustomLoss
from fastprune.cofi.distillation import Distillation, captured, valid_tokens
from fastprune.cofi.gates import Gates
from fastprune.cofi.gating import Gating
from fastprune.cofi.lagrangian import Lagrangian
from fastprune.data.samples import model_inputs
from fastprune.errors import FastpruneError
from fastprune.structure import Site
from fastprune.structure.declaration import anatomy


class Student(nn.Module):
    """A model with all that is trained along with it.

    Attributes:
        model: whose weights are trained.
        distillation: what it learns from; None = labels.
        gates: that it is under; None where it has been compacted.
        lagrangian: that draws them to a sparsity.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        *,
        distillation: Distillation | None = None,
        loss: CustomLoss | None = None,
        gates: Gates | None = None,
        lagrangian: Lagrangian | None = None,
    ) -> None:
        """Put a model together with its gates and its teacher.

        Args:
            model: is trained where it is.
            sites: of the model.
            distillation: from its teacher.
            loss: instead of the model's own, where there is no teacher.
            gates: to train it under.
            lagrangian: of the gates.
        """
        super().__init__()
        self.model, self.distillation = model, distillation
        # Hidden from the module: a loss with weights of its own is not what is trained here.
        self._loss = (loss,)
        self.gates, self.lagrangian = gates, lagrangian
        self._sites = sites
        self._gating = (
            None if gates is None else Gating(model, sites, hidden=gates.layout.hidden > 0)
        )
        self.register_state_dict_post_hook(_drop_aliases)
        self.register_load_state_dict_pre_hook(_restore_aliases)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The loss of a batch with labels, the price of being off the target included."""
        if self.gates is None:
            return {"loss": self._task_loss(batch, None)}
        assert self.lagrangian is not None
        assert self._gating is not None
        values, sparsity = self.gates.draw()
        with self._gating.on(values) as kept:
            loss = self._task_loss(batch, kept)
        return {"loss": loss + self.lagrangian(sparsity).to(loss)}

    def status(self) -> str:
        """How far gates have come, in a few words."""
        if self.gates is None or self.lagrangian is None:
            return ""
        return f"sparsity {self.gates.sparsity():.3f}, target {self.lagrangian.target:.3f}"

    def _task_loss(self, batch: dict[str, Tensor], kept: dict[str, Tensor] | None) -> Tensor:
        if self.distillation is None:
            (loss,), outputs = self._loss, self.model(**batch)
            return outputs.loss if loss is None else _checked(loss(outputs, batch))
        inputs = model_inputs(batch)
        lesson = self.distillation.teach(inputs, batch)
        layers = range(len(anatomy(self.model).blocks)) if lesson.hidden else ()
        with captured(self.model, layers, valid_tokens(batch)) as hidden:
            outputs = self.model(**inputs)
        found = self.distillation(outputs, hidden, self._alive(kept), batch, lesson)
        return found

    def _alive(self, kept: dict[str, Tensor] | None) -> list[int]:
        """Layers that do anything."""
        left = [site.layer for site in self._sites if kept is None or kept[site.name].any()]
        return sorted(set(left))


def _checked(loss: object) -> Tensor:
    """What a loss of one's own has returned, if it can be trained on.

    Raises:
        FastpruneError: it cannot.
    """
    if not isinstance(loss, Tensor) or not loss.is_floating_point() or loss.numel() != 1:
        found = f"{type(loss).__name__}"
        if isinstance(loss, Tensor):
            found = f"a tensor of {loss.dtype} and shape {list(loss.shape)}"
        raise FastpruneError(f"the loss given returns {found}; it has to return one float, a mean")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise FastpruneError("the loss given has no gradient; compute it from the model's outputs")
    return loss.reshape(())


def _aliases(module: nn.Module) -> dict[str, str]:
    """Further names of shared weights, and the first name of each."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found[name] = first[id(parameter)]
    return found


def _drop_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Files of checkpoints refuse weights that are there twice."""
    for name in _aliases(module):
        del state[prefix + name]


def _restore_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, first in _aliases(module).items():
        state[prefix + name] = state[prefix + first]


def freeze_embeddings_(model: nn.Module) -> None:
    """Leave lookup tables out of training: as in CoFi, embeddings stay what they were. A head that
    shares their weight does so, too.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.requires_grad_(False)
