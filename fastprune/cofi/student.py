"""A model in training, under gates or without, as a module that returns its loss."""

from __future__ import annotations

from collections.abc import Sequence

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
from fastprune.training.shared import save_shared_once


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
        save_shared_once(self)

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

    def figures(self) -> dict[str, float]:
        """How far gates have come: the expected sparsity, its target, and the multipliers."""
        if self.gates is None or self.lagrangian is None:
            return {}
        linear, square = self.lagrangian.multipliers.tolist()
        return {
            "sparsity": self.gates.sparsity(),
            "target": self.lagrangian.target,
            "l1": linear,
            "l2": square,
        }

    def _task_loss(self, batch: dict[str, Tensor], kept: dict[str, Tensor] | None) -> Tensor:
        if self.distillation is None:
            (loss,), outputs = self._loss, self.model(**batch)
            return outputs.loss if loss is None else _checked(loss(outputs, batch))
        inputs = model_inputs(batch)
        lesson = self.distillation.teach(inputs, batch)
        layers = range(len(anatomy(self.model).blocks)) if lesson.hidden else ()
        with captured(self.model, layers, valid_tokens(batch)) as hidden:
            outputs = self.model(**inputs)
        # Some models skip layers at random in training; what has not been run imitates nothing.
        alive = [layer for layer in self._alive(kept) if layer in hidden]
        return self.distillation(outputs, hidden, alive, batch, lesson)

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
        raise FastpruneError(
            f"the loss given returns {found}; it has to return a tensor of one number, computed "
            "from the model's outputs"
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise FastpruneError("the loss given has no gradient; compute it from the model's outputs")
    return loss.reshape(())
