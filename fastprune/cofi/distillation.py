"""What a student under gates learns from the dense model: its predictions and hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastprune.calibration.divergence import Divergence, Prediction
from fastprune.cofi.choices import GateTraining
from fastprune.structure.declaration import anatomy
from fastprune.structure.stream import stream_width

_TAUGHT = 4
"""Layers of the teacher that are imitated."""


@dataclass(frozen=True)
class Lesson:
    """What the teacher makes of a batch.

    Attributes:
        prediction: as :class:`Divergence` has it.
        hidden: by layer: [tokens, teacher's hidden size], padding left out.
    """

    prediction: Prediction
    hidden: Mapping[int, Tensor]


class Distillation(nn.Module):
    """The loss of a student that imitates a teacher.

    Attributes:
        projection: from the student's hidden dimensions to the teacher's, from the identity; None
            where hidden states are not imitated. It is trained with the student.
    """

    def __init__(self, teacher: nn.Module, task: str, choices: GateTraining) -> None:
        """Take a teacher.

        Args:
            teacher: the dense model, in evaluation mode for as long as it is asked; not changed.
            task: of the samples.
            choices: of the training.
        """
        super().__init__()
        # Hidden from the module: checkpoints are of what learns.
        self._teacher = (teacher,)
        self._choices, self._task = choices, task
        self._divergence = Divergence(task, 0, temperature=choices.temperature)
        self._depth = len(anatomy(teacher).blocks)
        self.projection: nn.Linear | None = None
        if choices.distillation == "layers":
            config: Any = teacher.config
            width = stream_width(teacher) or config.hidden_size
            dtype = next(teacher.parameters()).dtype
            self.projection = nn.Linear(width, width, dtype=dtype)
            nn.init.eye_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    @torch.no_grad()
    def teach(self, inputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Lesson:
        """Run the teacher on a batch."""
        (teacher,) = self._teacher
        layers = [] if self.projection is None else self._taught()
        with captured(teacher, layers, valid_tokens(batch)) as hidden:
            outputs = teacher(**inputs)
        return Lesson(self._divergence.prediction(outputs, batch), hidden)

    def forward(
        self,
        outputs: Any,
        hidden: Mapping[int, Tensor],
        alive: Sequence[int],
        batch: dict[str, Tensor],
        lesson: Lesson,
    ) -> Tensor:
        """How far the student is from the teacher: a scalar.

        Args:
            outputs: of the student.
            hidden: of its layers, as in :class:`Lesson`.
            alive: layers of the student that are not closed, in order.
            batch: what both were given.
            lesson: of the teacher.
        """
        ours = self._divergence.prediction(outputs, batch)
        predicted = self._divergence.between(ours, lesson.prediction, batch).sum()
        predicted = predicted / self._predictions(batch)
        if self.projection is None:
            return predicted
        share = self._choices.layer_share
        return (1 - share) * predicted + share * self._layers(hidden, alive, lesson.hidden)

    def narrow_(self, hidden: Tensor) -> None:
        """Follow a student that has lost the hidden dimensions where ``hidden`` is 0."""
        if self.projection is not None:
            kept = (hidden != 0).nonzero().flatten()
            weight = self.projection.weight.detach()[:, kept]
            narrow = nn.Linear(len(kept), len(weight), device=weight.device, dtype=weight.dtype)
            narrow.weight, narrow.bias = nn.Parameter(weight), self.projection.bias
            self.projection = narrow

    def _predictions(self, batch: dict[str, Tensor]) -> int | Tensor:
        """How many a batch holds: a language model's tokens each count as one."""
        if self._task == "causal-lm":
            return batch["attention_mask"][:, 1:].sum()
        return len(next(iter(batch.values())))

    def _taught(self) -> list[int]:
        """Layers of the teacher to imitate, in order."""
        if self._choices.teacher_layers == "random":
            few = min(_TAUGHT, self._depth)
            return sorted(torch.randperm(self._depth)[:few].tolist())
        # 3, 6, 9 and 12 of twelve.
        quarters = (-(-self._depth * i // _TAUGHT) - 1 for i in range(1, _TAUGHT + 1))
        return sorted(set(quarters))

    def _layers(
        self, ours: Mapping[int, Tensor], alive: Sequence[int], theirs: Mapping[int, Tensor]
    ) -> Tensor:
        """The sum over taught layers of the mean squared errors of those that match them."""
        assert self.projection is not None
        total = self.projection.bias.sum() * 0
        for student, teacher in self._match(ours, alive, theirs):
            total = total + functional.mse_loss(self.projection(ours[student]), theirs[teacher])
        return total

    @torch.no_grad()
    def _match(
        self, ours: Mapping[int, Tensor], alive: Sequence[int], theirs: Mapping[int, Tensor]
    ) -> list[tuple[int, int]]:
        """Layers of the student for those of the teacher; none where none is left."""
        assert self.projection is not None
        ordered = self._choices.matching == "ordered"
        open_layers = list(alive) if ordered else sorted(ours)
        errors = self._errors({layer: ours[layer] for layer in open_layers}, theirs)
        pairs = []
        for teacher in sorted(theirs, reverse=True):
            if not open_layers:
                break
            nearest = min(range(len(open_layers)), key=lambda i: errors[teacher][open_layers[i]])
            pairs.append((open_layers[nearest], teacher))
            if ordered:
                open_layers = open_layers[:nearest]
        return pairs

    def _errors(
        self, ours: Mapping[int, Tensor], theirs: Mapping[int, Tensor]
    ) -> dict[int, dict[int, float]]:
        """Mean squared errors by the teacher's layer and by ours, brought over in one piece."""
        assert self.projection is not None
        seen = [self.projection(states) for states in ours.values()]
        if not seen:
            return {}
        every = [functional.mse_loss(x, y) for y in theirs.values() for x in seen]
        rows = torch.stack(every).view(len(theirs), len(seen)).tolist()
        return {t: dict(zip(ours, row, strict=True)) for t, row in zip(theirs, rows, strict=True)}


@contextmanager
def captured(
    model: nn.Module, layers: Sequence[int], valid: Tensor | None
) -> Iterator[dict[int, Tensor]]:
    """Within the block, what layers hand on is noted down by the layer's number.

    Args:
        model: to watch.
        layers: numbers.
        valid: bool [samples, tokens], what is no padding; None = all.
    """
    blocks = anatomy(model).blocks
    hidden: dict[int, Tensor] = {}

    def note(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            hidden[layer] = states.flatten(0, 1) if valid is None else states[valid]

        return hook

    hooks = [
        model.get_submodule(blocks[layer]).register_forward_hook(note(layer)) for layer in layers
    ]
    try:
        yield hidden
    finally:
        for hook in hooks:
            hook.remove()


def valid_tokens(batch: dict[str, Tensor]) -> Tensor | None:
    mask = batch.get("attention_mask")
    return None if mask is None else mask.bool()
