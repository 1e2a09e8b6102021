"""CoFi: a model learns which of its parts it can do without (Xia, Zhong, Chen 2022)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastprune.budget import Budget
from fastprune.cofi.budgets import within
from fastprune.cofi.choices import GateTraining
from fastprune.cofi.distillation import Distillation
from fastprune.cofi.folding import compact_gated
from fastprune.cofi.gates import Gates
from fastprune.cofi.goal import Goal
from fastprune.cofi.lagrangian import Lagrangian, steps_to_settle
from fastprune.cofi.layout import GateLayout
from fastprune.cofi.possible import all_but_one, check_hidden_gates, possible_gates
from fastprune.cofi.start import fisher_start
from fastprune.cofi.steps import make_steps, trained_weights
from fastprune.cofi.student import Student
from fastprune.compaction import compact
from fastprune.data.samples import model_inputs
from fastprune.device import cache_off, device_of, evaluation_mode, to_device
from fastprune.distributed import Group
from fastprune.errors import FastpruneError
from fastprune.fingerprint import fingerprint_model
from fastprune.report import Stopwatch
from fastprune.structure import find_sites
from fastprune.training.checkpoints import checkpoints_in, directory_for
from fastprune.training.choices import Training
from fastprune.training.loop import (
    check_trainable,
    config_kept,
    make_trainer,
    record,
    run,
    surroundings_kept,
)

_DIVERGED = (
    "training does not stay finite; use a smaller learning rate or float32, and see that a loss of "
    "your own is finite"
)
History = list[dict[str, float]]
"""Of :func:`fastprune.training.loop.record`."""


@dataclass(frozen=True)
class Trained:
    """What training under gates has come to.

    Attributes:
        model: physically smaller, fine-tuned; modes and flags as the dense model's.
        masks: per site of the dense model, float32 [units], 1 = kept.
        hidden: float32 [hidden size], likewise; None where hidden dimensions have no gates.
        record: for the report.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    hidden: Tensor | None
    record: dict[str, Any]


class Cofi:
    """Trains a dense model under gates, to one budget after the other."""

    def __init__(self, dense: nn.Module, goal: Goal, choices: GateTraining, group: Group) -> None:
        """Check what can be checked.

        Args:
            dense: the model to prune; it is not changed.
            goal: what it is trained for.
            choices: how.
            group: the processes that share the work.

        Raises:
            FastpruneError: samples without labels, weights that are frozen, layers that are run
                twice, hidden dimensions that cannot have gates, or accelerate is missing.
        """
        check_trainable(dense, goal.samples)
        if not trained_weights(dense):
            raise FastpruneError(
                "all weights but embeddings are frozen; unfreeze some with requires_grad_(True)"
            )
        if any(getattr(module, "gradient_checkpointing", False) for module in dense.modules()):
            raise FastpruneError(
                "turn gradient checkpointing off (model.gradient_checkpointing_disable()): when "
                "layers are run again, the gates they were under are gone"
            )
        self._dense, self._goal, self._choices, self._group = dense, goal, choices, group
        self._say_if_short()
        inputs = to_device(model_inputs(goal.samples.collate([0])), device_of(dense))
        if choices.gates is None:
            self._kinds = possible_gates(dense, inputs)
        else:
            self._kinds = choices.gates
            if "hidden" in choices.gates:
                check_hidden_gates(dense, inputs)
        self._chosen = choices.chosen()  # before a loss of one's own has changed what it holds

    def check(self, budget: Budget) -> None:
        """Find out whether gates can meet a budget, before anything is trained.

        Raises:
            BudgetError: they cannot.
            UnsupportedModelError: weights that several parts share.
        """
        gates = Gates(self._layout(budget))
        layout = gates.layout
        within(gates, budget.limit(layout.prices.dense))
        # Something of everything: what cannot be cut says so here.
        masks = {site.name: torch.arange(site.units) < site.units - 1 for site in layout.sites}
        hidden = all_but_one(layout.hidden) if layout.hidden else None
        compact(self._dense, masks, layout.sites, hidden=hidden)

    def train(self, budget: Budget, watch: Stopwatch) -> Trained:
        """Train to a budget of parameters or MACs.

        Args:
            budget: to meet.
            watch: counts training under gates as search, and that without as tuning.

        Raises:
            FastpruneError: anything the user can mend, in one line.
        """
        dense, layout = self._dense, self._layout(budget)
        cost = budget.limit(layout.prices.dense)
        target = 1 - cost / layout.prices.dense
        with ExitStack() as stack:
            stack.enter_context(surroundings_kept(device_of(dense)))
            stack.enter_context(evaluation_mode(dense))
            stack.enter_context(cache_off(dense))
            gates, model = self._gates(layout, watch), copy.deepcopy(dense)
            directory = stack.enter_context(
                directory_for(budget, self._choices.checkpoints, self._group)
            )
            distillation = self._distillation()
            with watch.stage("search"):
                first = self._under_gates(
                    budget, model, gates, distillation, cost, target, directory / "gates"
                )
            with watch.stage("compact"):
                values = within(gates, cost)
                model = compact_gated(model, layout.sites, values)
                if distillation is not None and values.hidden is not None:
                    distillation.narrow_(values.hidden)
            with watch.stage("tune"):
                then = self._finetune(budget, model, distillation, directory / "finetuning")
        history = {"gates": first, "finetuning": then}
        self._restore_flags(model)
        masks = {name: mask.float() for name, mask in values.kept(layout.sites).items()}
        hidden = None if values.hidden is None else (values.hidden != 0).float()
        return Trained(model, masks, hidden, self._record(gates, target, history))

    def _say_if_short(self) -> None:
        steps, rate = self._steps(self._choices.training), self._choices.gate_rate
        enough = steps_to_settle(rate)
        if steps < enough:
            warnings.warn(
                f"{steps} steps under gates are few: at a gate rate of {rate:g} gates take about "
                f"{enough} to settle at a target; train longer, or raise the gate rate",
                RuntimeWarning,
                stacklevel=2,
            )

    def _layout(self, budget: Budget) -> GateLayout:
        return GateLayout.of(self._dense, self._kinds, budget.kind, self._goal.seq_len)

    def _gates(self, layout: GateLayout, watch: Stopwatch) -> Gates:
        training, start = self._choices.training, None
        if self._choices.start == "fisher":
            with watch.stage("calibrate"):
                start = fisher_start(self._dense, layout, self._goal.samples, training)
        return Gates(layout, start, seed=training.seed).to(device_of(self._dense))

    def _under_gates(
        self,
        budget: Budget,
        model: nn.Module,
        gates: Gates,
        distillation: Distillation | None,
        cost: float,
        target: float,
        directory: Path,
    ) -> History:
        choices, sites = self._choices, gates.layout.sites
        ramp = round(choices.ramp * self._steps(choices.training))
        student = Student(
            model,
            sites,
            distillation=distillation,
            loss=choices.loss,
            gates=gates,
            lagrangian=Lagrangian(target, ramp),
        )

        def score() -> float:
            missing = target - gates.sparsity()
            if missing > choices.tolerance:
                return self._goal.short_by(missing)
            return self._score(compact_gated(model, sites, within(gates, cost)))

        label = f"{budget}: train under gates"
        _, history = self._run(student, choices.training, directory, score, label)
        return [self._goal.without_short(entry) for entry in history]

    def _finetune(
        self,
        budget: Budget,
        model: nn.Module,
        distillation: Distillation | None,
        directory: Path,
    ) -> History:
        training = self._choices.finetuning
        if training is None or not trained_weights(model):
            return []
        student = Student(
            model, find_sites(model), distillation=distillation, loss=self._choices.loss
        )
        score = partial(self._score, model)
        if self._goal.score is None:
            return self._run(student, training, directory, score, f"{budget}: fine-tune")[1]
        before, weights = score(), copy.deepcopy(model.state_dict())
        best, history = self._run(student, training, directory, score, f"{budget}: fine-tune")
        if best is not None and self._goal.better(before, best):
            model.load_state_dict(weights)
        return history

    def _run(
        self,
        student: Student,
        training: Training,
        directory: Path,
        score: Callable[[], float],
        label: str,
    ) -> tuple[float | None, History]:
        """Train a student, from its last checkpoint on where there is one.

        Returns:
            The best score, and the record.
        """
        goal, choices, gates = self._goal, self._choices, student.gates
        student.to(device_of(self._dense))
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
                checkpoints_in(directory, of_what, resume=choices.resume, group=self._group)
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
                label=label,
                figures=student.figures,
            )
            run(trainer, directory, last, diverged=_DIVERGED)
            return trainer.state.best_metric, record(trainer)

    def _distillation(self) -> Distillation | None:
        choices = self._choices
        if choices.distillation == "none":
            return None
        task = self._goal.samples.task
        return Distillation(self._dense, task, choices).to(device_of(self._dense))

    def _steps(self, training: Training) -> int:
        return training.steps(len(self._goal.samples), self._group.size)

    def _score(self, model: nn.Module) -> float:
        """Of a small model, by the first process for all: they have to choose alike."""

        def scored() -> float:
            assert self._goal.score is not None
            found = self._goal.score(model)
            assert found is not None
            return found

        return self._group.first(scored)

    def _of_what(self, student: Student) -> dict[str, Any]:
        """All that checkpoints depend on."""
        return {
            "model": fingerprint_model(student.model),
            **self._goal.parts(),
            **self._chosen,
            "kind of budget": None if student.gates is None else student.gates.layout.kind,
            "target": None if student.lagrangian is None else student.lagrangian.aim,
            "processes": self._group.size,
        }

    def _record(self, gates: Gates, target: float, history: dict[str, History]) -> dict[str, Any]:
        return {
            **self._chosen,
            "samples": len(self._goal.samples),
            "sparsity": {"target": target, "expected": gates.sparsity()},
            "history": history,
        }

    def _restore_flags(self, model: nn.Module) -> None:
        """Training has changed modes, and what asks for gradients."""
        model.train(self._dense.training)
        before = dict(self._dense.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name].requires_grad)
