"""CoFi: a model learns which of its parts it can do without (Xia, Zhong, Chen 2022)."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastprune.budget import Budget
from fastprune.cofi.budgets import within
from fastprune.cofi.choices import GateTraining
from fastprune.cofi.distillation import Distillation
from fastprune.cofi.folding import compact_gated
from fastprune.cofi.gates import Gates
from fastprune.cofi.lagrangian import Lagrangian
from fastprune.cofi.layout import GateLayout
from fastprune.cofi.start import fisher_start
from fastprune.cofi.steps import Steps
from fastprune.cofi.student import Student, freeze_embeddings_
from fastprune.compaction.directories import budget_directory
from fastprune.data import Samples
from fastprune.device import cache_off, device_of
from fastprune.distributed import Group
from fastprune.fingerprint import fingerprint, fingerprint_model, fingerprint_samples
from fastprune.report import Stopwatch
from fastprune.structure import find_sites
from fastprune.training.checkpoints import claim, gone_if_empty
from fastprune.training.choices import Training
from fastprune.training.loop import check_trainable, make_trainer, run

_FAR = 1e6
"""What a checkpoint that is off its target counts less than any that is not."""


@dataclass(frozen=True)
class Task:
    """What a model is trained for.

    Attributes:
        samples: to learn from, labelled.
        score: of a compacted model on held-out data; None = the last checkpoint is taken.
        greater_is_better: of scores.
        seq_len: tokens at which MACs are counted.
    """

    samples: Samples
    score: Callable[[nn.Module], float | None] | None
    greater_is_better: bool
    seq_len: float


@dataclass(frozen=True)
class Trained:
    """What training under gates has come to.

    Attributes:
        model: physically smaller, fine-tuned, in evaluation mode.
        masks: per site of the dense model, float32 [units], 1 = kept.
        record: for the report.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    record: dict[str, Any]


class Cofi:
    """Trains a dense model under gates, to one budget after the other."""

    def __init__(self, dense: nn.Module, task: Task, choices: GateTraining, group: Group) -> None:
        """Check what can be checked.

        Args:
            dense: the model to prune; it is not changed.
            task: what it is trained for.
            choices: how.
            group: the processes that share the work.

        Raises:
            FastpruneError: samples without labels, or accelerate is missing.
        """
        check_trainable(dense, task.samples)
        self._dense, self._task, self._choices, self._group = dense, task, choices, group

    def check(self, budget: Budget) -> None:
        """Find out whether gates can meet a budget.

        Raises:
            BudgetError: they cannot.
            UnsupportedModelError: hidden dimensions that cannot be removed.
        """
        gates = Gates(self._layout(budget))
        within(gates, budget.limit(gates.layout.prices.dense))

    def train(self, budget: Budget, watch: Stopwatch) -> Trained:
        """Train to a budget of parameters or MACs.

        Args:
            budget: to meet.
            watch: counts training under gates as search, and that without as tuning.

        Raises:
            FastpruneError: anything the user can mend, in one line.
        """
        layout = self._layout(budget)
        with watch.stage("calibrate"):
            gates = self._gates(layout)
        cost = budget.limit(layout.prices.dense)
        target = 1 - cost / layout.prices.dense
        with self._directory(budget) as directory:
            with watch.stage("search"):
                student = self._under_gates(gates, cost, target, directory / "gates")
            with watch.stage("compact"):
                values = within(gates, cost)
                model = compact_gated(student.model, layout.sites, values)
            if student.distillation is not None and values.hidden is not None:
                student.distillation.narrow_(values.hidden)
            with watch.stage("tune"):
                self._finetune(model, student.distillation, directory / "finetuning")
        record = {
            **self._choices.chosen(),
            "samples": len(self._task.samples),
            "sparsity": {"target": target, "expected": gates.sparsity()},
        }
        masks = {name: mask.float() for name, mask in values.kept(layout.sites).items()}
        return Trained(model.eval(), masks, record)

    def _layout(self, budget: Budget) -> GateLayout:
        return GateLayout.of(self._dense, self._choices.gates, budget.kind, self._task.seq_len)

    def _gates(self, layout: GateLayout) -> Gates:
        training, start = self._choices.training, None
        if self._choices.start == "fisher":
            start = fisher_start(self._dense, layout, self._task.samples, training)
        return Gates(layout, start, seed=training.seed).to(device_of(self._dense))

    def _under_gates(self, gates: Gates, cost: float, target: float, directory: Path) -> Student:
        choices, training = self._choices, self._choices.training
        steps = self._steps(training)
        student = Student(
            copy.deepcopy(self._dense),
            gates.layout.sites,
            distillation=self._distillation(),
            loss=choices.loss,
            gates=gates,
            lagrangian=Lagrangian(target, round(choices.ramp * steps)),
        )

        def score() -> float:
            missing = target - gates.sparsity()
            if missing > choices.tolerance:
                return self._worst(missing)
            return self._score(
                compact_gated(student.model, gates.layout.sites, within(gates, cost))
            )

        self._run(student, training, directory, score, "train under gates")
        return student

    def _finetune(
        self, model: nn.Module, distillation: Distillation | None, directory: Path
    ) -> None:
        training = self._choices.finetuning
        if training is None:
            return
        student = Student(
            model, find_sites(model), distillation=distillation, loss=self._choices.loss
        )
        self._run(student, training, directory, partial(self._score, model), "fine-tune")

    def _run(
        self,
        student: Student,
        training: Training,
        directory: Path,
        score: Callable[[], float],
        label: str,
    ) -> None:
        """Train a student, from its last checkpoint on where there is one."""
        task, choices = self._task, self._choices
        student.to(device_of(self._dense))
        freeze_embeddings_(student)
        steps = Steps(
            student,
            rate=training.learning_rate,
            weight_decay=training.weight_decay,
            gate_rate=choices.gate_rate,
        )
        of_what = self._fingerprint(student.model)
        last = self._group.first(lambda: claim(directory, of_what, resume=choices.resume))
        with gone_if_empty(directory), cache_off(student.model):
            trainer = make_trainer(
                student,
                task.samples,
                training,
                directory,
                optimizer=steps,
                schedule=steps.schedule(self._steps(training)),
                score=None if task.score is None else score,
                greater_is_better=task.greater_is_better,
                label=label,
                status=student.status,
            )
            run(trainer, directory, last)

    def _steps(self, training: Training) -> int:
        return training.steps(len(self._task.samples), self._group.size)

    def _distillation(self) -> Distillation | None:
        if self._choices.distillation == "none":
            return None
        task = self._task.samples.task
        return Distillation(self._dense, task, self._choices, self._choices.training.seed)

    def _score(self, model: nn.Module) -> float:
        assert self._task.score is not None
        found = self._task.score(model)
        assert found is not None
        return found

    def _worst(self, missing: float) -> float:
        """What a checkpoint counts that lacks some sparsity: the less, the more it lacks."""
        value = _FAR * (1 + missing)
        return -value if self._task.greater_is_better else value

    def _fingerprint(self, model: nn.Module) -> str:
        """Of all that checkpoints depend on."""
        return fingerprint(
            {
                "model": fingerprint_model(model),
                "samples": fingerprint_samples(self._task.samples),
                "training": self._choices.chosen(),
            }
        )

    @contextmanager
    def _directory(self, budget: Budget) -> Iterator[Path]:
        """Where checkpoints of a budget lie; temporary ones are gone afterwards."""
        if self._choices.checkpoints is not None:
            yield budget_directory(Path(self._choices.checkpoints), budget)
            return
        temporary = Path(self._group.first(lambda: tempfile.mkdtemp(prefix="fastprune-")))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
