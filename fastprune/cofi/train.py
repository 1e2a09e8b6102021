"""CoFi: a model learns which of its parts it can do without (Xia, Zhong, Chen 2022)."""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
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
from fastprune.cofi.lagrangian import steps_to_settle
from fastprune.cofi.layout import GateLayout
from fastprune.cofi.phases import History, Phases
from fastprune.cofi.possible import all_but_one, check_hidden_gates, possible_gates
from fastprune.cofi.start import fisher_start
from fastprune.cofi.steps import trained_weights
from fastprune.compaction import compact
from fastprune.data.samples import model_inputs
from fastprune.device import cache_off, device_of, evaluation_mode, to_device
from fastprune.distributed import Group
from fastprune.errors import FastpruneError
from fastprune.report import Stopwatch
from fastprune.training.checkpoints import directory_for
from fastprune.training.loop import check_trainable, surroundings_kept


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
            phases = Phases(
                budget=budget,
                cost=cost,
                target=target,
                goal=self._goal,
                choices=self._choices,
                chosen=self._chosen,
                distillation=self._distillation(),
                group=self._group,
                directory=directory,
            )
            with watch.stage("search"):
                first = phases.under_gates(model, gates)
            with watch.stage("compact"):
                values = within(gates, cost)
                model = compact_gated(model, layout.sites, values)
                if phases.distillation is not None and values.hidden is not None:
                    phases.distillation.narrow_(values.hidden)
            with watch.stage("tune"):
                then = phases.finetune(model)
        history = {"gates": first, "finetuning": then}
        self._restore_flags(model)
        masks = {name: mask.float() for name, mask in values.kept(layout.sites).items()}
        hidden = None if values.hidden is None else (values.hidden != 0).float()
        return Trained(model, masks, hidden, self._record(gates, target, history))

    def _say_if_short(self) -> None:
        choices, rate = self._choices, self._choices.gate_rate
        steps = choices.training.steps(len(self._goal.samples), self._group.size)
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

    def _distillation(self) -> Distillation | None:
        choices = self._choices
        if choices.distillation == "none":
            return None
        task = self._goal.samples.task
        return Distillation(self._dense, task, choices).to(device_of(self._dense))

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
