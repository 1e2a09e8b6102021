"""The two trainings of one budget: under gates, and of what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fastprune.budget import Budget
from fastprune.cofi.budgets import within
from fastprune.cofi.choices import GateTraining
from fastprune.cofi.distillation import Distillation
from fastprune.cofi.folding import compact_gated
from fastprune.cofi.gates import Gates
from fastprune.cofi.goal import Goal
from fastprune.cofi.lagrangian import Lagrangian
from fastprune.cofi.steps import make_steps, trained_weights
from fastprune.cofi.student import Student
from fastprune.device import cache_off, device_of
from fastprune.distributed import Group
from fastprune.fingerprint import fingerprint_model
from fastprune.structure import find_sites
from fastprune.training.checkpoints import checkpoints_in
from fastprune.training.choices import Training
from fastprune.training.loop import config_kept, make_trainer, record, run

History = list[dict[str, float]]
"""Of :func:`fastprune.training.loop.record`."""
_DIVERGED = (
    "training does not stay finite; use a smaller learning rate or float32, and see that a loss of "
    "your own is finite"
)


@dataclass(frozen=True)
class Phases:
    """What both trainings of a budget have in common.

    Attributes:
        budget: to meet.
        cost: what may be left, in the budget's unit.
        target: the sparsity that is asked of gates.
        goal: what is trained for.
        choices: how.
        chosen: the same as plain values, from before anything has been trained.
        distillation: what is learnt from; None = labels.
        group: the processes that share the work.
        directory: for checkpoints.
    """

    budget: Budget
    cost: float
    target: float
    goal: Goal
    choices: GateTraining
    chosen: dict[str, Any]
    distillation: Distillation | None
    group: Group
    directory: Path

    def under_gates(self, model: nn.Module, gates: Gates) -> History:
        """Train a model and its gates; with scores, to the best checkpoint on target."""
        choices, sites = self.choices, gates.layout.sites
        ramp = round(choices.ramp * self._steps(choices.training))
        student = Student(
            model,
            sites,
            distillation=self.distillation,
            loss=choices.loss,
            gates=gates,
            lagrangian=Lagrangian(self.target, ramp),
        )

        def score() -> float:
            missing = self.target - gates.sparsity()
            if missing > choices.tolerance:
                return self.goal.short_by(missing)
            return self._score(compact_gated(model, sites, within(gates, self.cost)))

        _, history = self._run(student, choices.training, score, "gates", "train under gates")
        return [self.goal.without_short(entry) for entry in history]

    def finetune(self, model: nn.Module) -> History:
        """Train what is left; it stays as it was where that makes no score better."""
        training = self.choices.finetuning
        if training is None or not trained_weights(model):
            return []
        student = Student(
            model, find_sites(model), distillation=self.distillation, loss=self.choices.loss
        )
        score = partial(self._score, model)
        scored = self.goal.score is not None
        before, weights = (score(), copy.deepcopy(model.state_dict())) if scored else (None, {})
        best, history = self._run(student, training, score, "finetuning", "fine-tune")
        if before is not None and best is not None and self.goal.better(before, best):
            model.load_state_dict(weights)
        return history

    def _run(
        self,
        student: Student,
        training: Training,
        score: Callable[[], float],
        name: str,
        label: str,
    ) -> tuple[float | None, History]:
        """Train a student, from its last checkpoint on where there is one.

        Args:
            student: on its device.
            training: how long and in what steps.
            score: of the student as it stands.
            name: of the directory of checkpoints.
            label: of the bar.

        Returns:
            The best score, and the record.
        """
        goal, choices, gates = self.goal, self.choices, student.gates
        directory = self.directory / name
        student.to(device_of(student.model))
        learning = {id(weight) for weight in trained_weights(student.model)}
        for weight in student.model.parameters():
            weight.requires_grad_(id(weight) in learning)
        lagrangian = student.lagrangian
        apart = {id(p) for part in (gates, lagrangian) if part for p in part.parameters()}
        optimizer, schedule = make_steps(
            [p for p in student.parameters() if p.requires_grad and id(p) not in apart],
            gates,
            lagrangian,
            rate=training.learning_rate,
            weight_decay=training.weight_decay,
            gate_rate=choices.gate_rate,
            steps=self._steps(training),
        )
        of_what = self._of_what(student)
        with ExitStack() as stack:
            last = stack.enter_context(
                checkpoints_in(directory, of_what, resume=choices.resume, group=self.group)
            )
            stack.enter_context(cache_off(student.model))
            stack.enter_context(config_kept(student.model))
            trainer = make_trainer(
                student,
                goal.samples,
                training,
                directory,
                optimizer=optimizer,
                schedule=schedule,
                score=None if goal.score is None else score,
                greater_is_better=goal.greater_is_better,
                label=f"{self.budget}: {label}",
                figures=student.figures,
            )
            run(trainer, directory, last, diverged=_DIVERGED)
            return trainer.state.best_metric, record(trainer)

    def _steps(self, training: Training) -> int:
        return training.steps(len(self.goal.samples), self.group.size)

    def _score(self, model: nn.Module) -> float:
        """Of a small model, by the first process for all: they have to choose alike."""

        def scored() -> float:
            assert self.goal.score is not None
            found = self.goal.score(model)
            assert found is not None
            return found

        return self.group.first(scored)

    def _of_what(self, student: Student) -> dict[str, Any]:
        """All that checkpoints depend on."""
        return {
            "model": fingerprint_model(student.model),
            **self.goal.parts(),
            **self.chosen,
            "kind of budget": None if student.gates is None else student.gates.layout.kind,
            "target": None if student.lagrangian is None else student.lagrangian.aim,
            "processes": self.group.size,
        }
