"""What training with gates leaves to choose."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from fastprune.checks import check_known, is_number
from fastprune.errors import FastpruneError
from fastprune.training.choices import LARGEST, Training

GATES = ("sublayers", "heads", "filters", "hidden")
"""What can have gates: whole sublayers, attention heads, FFN filters, hidden dimensions."""
DISTILLATIONS = ("layers", "prediction", "none")
"""What a student learns from: hidden states and predictions of the dense model, its predictions
alone, or nothing but labels."""
MATCHINGS = ("ordered", "nearest")
"""How layers of the student are found for those of the teacher: from the top down, each below the
one before and not closed (version 4 of the released code), or any (version 3)."""
TEACHER_LAYERS = ("spread", "random")
"""Which four layers of the teacher are imitated: at even distances, or others in every batch."""
STARTS = ("open", "fisher")
"""Where gates start: all open, or at the ranks of their units' Fisher information."""

UNDER_GATES = Training(epochs=3.0, learning_rate=1e-4, group_by_length=True)
AFTERWARDS = Training(epochs=2.0, learning_rate=1e-4, group_by_length=True)
"""How weights are trained by default, with gates and when these are gone."""

CustomLoss = Callable[[Any, Mapping[str, Tensor]], Tensor]
"""From a model's outputs and the batch, labels included, to a scalar."""


@dataclass(frozen=True)
class GateTraining:
    """How a model is trained under gates (``method="cofi"``), and afterwards without them.

    Attributes:
        gates: what has gates, any of :data:`GATES`; None = all that the model can do without.
        training: of weights under gates: how long and in what steps. The rate falls linearly.
        finetuning: of the smaller model; None = not at all.
        ramp: the share of the steps under gates in which the target of sparsity rises.
        gate_rate: learning rate of gates and multipliers.
        distillation: one of :data:`DISTILLATIONS`.
        matching: one of :data:`MATCHINGS`.
        teacher_layers: one of :data:`TEACHER_LAYERS`.
        layer_share: how much of the loss hidden states are; the rest are predictions.
        temperature: that softens predictions.
        start: one of :data:`STARTS`.
        tolerance: how far the expected sparsity may be below its target where a checkpoint counts.
        loss: instead of the model's own loss, where nothing is distilled.
        checkpoints: a directory for checkpoints, which stay there; None = a temporary one.
        resume: go on from the checkpoints of an interrupted training.
    """

    gates: tuple[str, ...] | None = None
    training: Training = UNDER_GATES
    finetuning: Training | None = AFTERWARDS
    ramp: float = 0.4
    gate_rate: float = 0.1
    distillation: str = "layers"
    matching: str = "ordered"
    teacher_layers: str = "spread"
    layer_share: float = 0.9
    temperature: float = 2.0
    start: str = "open"
    tolerance: float = 0.01
    loss: CustomLoss | None = None
    checkpoints: str | os.PathLike[str] | None = None
    resume: bool = False

    def running(self, *, seed: int, dtype: torch.dtype, progress: bool) -> GateTraining:
        """The same, with what all of a run has in common."""
        common: Any = {"seed": seed, "dtype": dtype, "progress": progress}
        tuning = None if self.finetuning is None else replace(self.finetuning, **common)
        return replace(self, training=replace(self.training, **common), finetuning=tuning)

    def check_left_to_run(self) -> None:
        """Refuse what all of a run has in common, where it is said here.

        Raises:
            FastpruneError: naming it.
        """
        default = Training()
        for training in filter(None, (self.training, self.finetuning)):
            for name in ("seed", "dtype", "progress"):
                if getattr(training, name) != getattr(default, name):
                    raise FastpruneError(
                        f"{name} is one of the whole run; give it to prune() instead of Training()"
                    )

    def chosen(self) -> dict[str, Any]:
        """All that a result depends on, as plain values."""
        values = asdict(replace(self, loss=None))
        for name in ("checkpoints", "resume"):
            del values[name]
        for name in ("training", "finetuning"):
            if values[name] is not None:
                del values[name]["progress"]
                values[name]["dtype"] = str(values[name]["dtype"]).removeprefix("torch.")
        values["loss"] = self.loss and _described(self.loss)
        return values

    def __post_init__(self) -> None:
        for name in ("training", "finetuning"):
            value = getattr(self, name)
            if not isinstance(value, Training) and (name, value) != ("finetuning", None):
                raise FastpruneError(f"{name} must be a fastprune.Training, got {value!r}")
        if self.gates is not None:
            if isinstance(self.gates, str) or not isinstance(self.gates, Iterable):
                raise FastpruneError(f"gates must be a list of names, got {self.gates!r}")
            object.__setattr__(self, "gates", tuple(self.gates))
        if self.gates is not None and not self.gates:
            raise FastpruneError(f"no gates to train; name some of {', '.join(GATES)}")
        for kind in self.gates or ():
            check_known("gates", kind, GATES)
        for name, known in (
            ("distillation", DISTILLATIONS),
            ("matching", MATCHINGS),
            ("teacher_layers", TEACHER_LAYERS),
            ("start", STARTS),
        ):
            check_known(name, getattr(self, name), known)
        for name, most in (
            ("ramp", 1),
            ("layer_share", 1),
            ("tolerance", 1),
            ("gate_rate", None),
            ("temperature", None),
        ):
            _check_number(name, getattr(self, name), most)
        if self.loss is not None:
            _check_loss(self.loss)
        if self.checkpoints is not None and not isinstance(self.checkpoints, (str, os.PathLike)):
            raise FastpruneError(f"checkpoints must be a directory, got {self.checkpoints!r}")
        if self.loss is not None and self.distillation != "none":
            raise FastpruneError(
                "a loss of one's own does not go with distillation; use distillation='none'"
            )
        if not isinstance(self.resume, bool):
            raise FastpruneError(f"resume must be True or False, got {self.resume!r}")
        if self.resume and self.checkpoints is None:
            raise FastpruneError("resume needs the directory of the checkpoints to go on from")


def _described(loss: Any) -> str:
    """By its name and a hash of what it is: code, constants, what it has closed over or holds."""
    from datasets.fingerprint import Hasher

    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    # Of functions that can be imported, a hash sees the name alone unless their code is beside it.
    code = getattr(loss, "__code__", None) or getattr(type(loss).__call__, "__code__", None)
    try:
        described = Hasher.hash([loss, code])
    except Exception:  # whatever its pickling raises: it is like no other
        described = uuid4().hex
    return f"{getattr(loss, '__module__', '')}.{name} {described}"


def _check_loss(loss: object) -> None:
    """Refuse what cannot be called with a model's outputs and a batch."""
    fits = callable(loss)
    if callable(loss):
        with suppress(ValueError):  # some of C have no signature
            try:
                inspect.signature(loss).bind(None, None)
            except TypeError:
                fits = False
    if not fits:
        raise FastpruneError(f"loss must be a function of outputs and batch, got {loss!r}")


def _check_number(name: str, value: Any, most: float | None) -> None:
    """Refuse what is no share, from 0 to ``most``, or no positive number of a sane size."""
    fits = is_number(value) and (0 < value <= LARGEST if most is None else 0 <= value <= most)
    if not fits:
        span = "a positive number of a sane size" if most is None else f"between 0 and {most}"
        raise FastpruneError(f"{name} must be {span}, got {value}")
