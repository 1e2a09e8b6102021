"""One pruning run: the only module that knows the whole way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, BudgetKind, Prices, price_sites
from fastprune.budget.latency import LatencyTable
from fastprune.calibration import Statistics
from fastprune.cofi.goal import Goal
from fastprune.cofi.train import Cofi
from fastprune.compaction import compact, uniform_kinds
from fastprune.data import Samples
from fastprune.device import device_of, free_bytes, size_in_bytes
from fastprune.distributed import Group
from fastprune.errors import FastpruneError
from fastprune.evaluation.metrics import LOWER_IS_BETTER
from fastprune.evaluation.scorer import Scorer
from fastprune.inputs import computable, restore_dtypes
from fastprune.kprune import Reference, kprune
from fastprune.learned import Learned
from fastprune.outcome import Outcome, describe
from fastprune.parity import RELEASED_TUNER
from fastprune.promise import latencies
from fastprune.report import Report, Score, Stopwatch, shared_stage
from fastprune.selection import Chooser, Evidence, rearrange_masks
from fastprune.selection.packed import split_packed
from fastprune.settings import Settings
from fastprune.structure import Site, find_sites
from fastprune.survey import Survey
from fastprune.tokens.reduce import schedule_within, with_schedule_
from fastprune.tuning import TUNERS, SiteTuning, copy_projections, keep_means, tune_together


@dataclass(frozen=True)
class Pruned:
    """What a run gives for one budget.

    Attributes:
        model: physically smaller and tuned.
        masks: per site of the model handed in, float32 [units], 1 = kept.
        hidden: float32 [hidden size], likewise; None where all hidden dimensions stay.
        report: what was promised and what was measured.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    hidden: Tensor | None
    report: Report


@dataclass(frozen=True)
class _Plan:
    """How one budget is met: packed masks of what stays first, and of a staged teacher."""

    budget: Budget
    kept: Tensor
    teacher: Tensor | None


@dataclass
class _Student:
    """A model on its way to its budget: smaller and tuned, stage by stage."""

    plan: _Plan
    watch: Stopwatch
    model: nn.Module
    masks: dict[str, Tensor]
    tuning: list[SiteTuning] = field(default_factory=list)


class Run:
    """One calibration and everything derived from it."""

    def __init__(
        self,
        given: nn.Module,
        samples: Samples,
        settings: Settings,
        scorer: Scorer,
        watch: Stopwatch,
        table: LatencyTable | None,
        group: Group,
        learned: Learned,
    ) -> None:
        """Nothing is computed yet.

        Args:
            given: the model to prune; it is not changed.
            samples: to calibrate with, those of all processes.
            settings: resolved.
            scorer: of the model before and after.
            watch: which has timed what came before.
            table: of the model; latency budgets need one.
            group: the processes that share the work.
            learned: what other runs on the same model and samples have found out.
        """
        self._given = given
        self._dense = computable(given)
        self._samples = samples
        self._settings = settings
        self._scorer = scorer
        self._watch = watch
        self._table = table
        self._group = group
        self._learned = learned
        self._sites = settings.sites(given)
        self._seq_len = settings.seq_len or samples.mean_length

    def results(self, statistics: Statistics | None) -> Iterator[Pruned]:
        """Calibrate once, then prune to one budget after the other."""
        settings = self._settings
        if statistics is not None:
            if settings.selection.while_tuning:
                raise FastpruneError(
                    f"method {settings.method_name} does not go with statistics: it looks at the "
                    "samples again and again; leave statistics out, or use another method"
                )
            statistics.check_fit(self._sites, **settings.needs)
            settings = self._settings = settings.with_statistics(
                statistics.fisher, statistics.targets
            )
        if settings.selection.trains:
            yield from self._trained()
            return
        survey = Survey(self._dense, self._sites, self._samples, settings, self._group)
        self._survey = survey
        # Whether budgets can be met does not depend on the data: find out before reading them.
        blind = settings.selection.blind(self._sites)
        self._choose(blind, self._sites, settings.budgets)
        dense_score = self._group.first(lambda: self._scorer.dense(self._dense))
        if settings.selection.while_tuning:
            reference = survey.refer(self._watch)
            for budget in settings.budgets:
                yield from self._finish([budget], [self._walk(budget, reference)], dense_score)
            return
        if statistics is None and any(settings.needs.values()):
            statistics = survey.statistics(self._watch)
        # From here on, the first process alone needs them: it decides and solves for all.
        aids = self._aids(statistics)
        plans = self._group.first(partial(self._plans, statistics))
        del statistics  # hundreds of MB in larger models, and all of it has been used
        if settings.imitates_dense:
            with self._watch.stage("tune"):
                survey.record()
        at_once = self._students_at_once()
        for start in range(0, len(plans), at_once):
            students = self._follow(plans[start : start + at_once], aids)
            outcomes = [Outcome(s.model, s.masks, s.tuning, s.watch) for s in students]
            budgets = [student.plan.budget for student in students]
            yield from self._finish(budgets, outcomes, dense_score)

    def _students_at_once(self) -> int:
        """How many budgets are followed side by side: what the dense model does serves them all."""
        trace = self._survey.trace
        states = 0 if trace is None else size_in_bytes([trace.hidden])
        each = size_in_bytes(self._dense.parameters()) + states
        fit = free_bytes(device_of(self._dense)) // 4 // each
        return max(1, min(self._group.gather(fit)))

    def _plans(self, statistics: Statistics | None) -> list[_Plan]:
        settings = self._settings
        budgets = [self._on_the_way(budget, 1 / settings.stages) for budget in settings.budgets]
        chooser = self._learn(self._dense, self._sites, statistics, self._learned)
        with self._watch.stage("search"):
            kept = self._choose(chooser, self._sites, budgets)
            teachers: Sequence[Tensor | None] = [None] * len(budgets)
            if settings.staged:
                halfway = [self._on_the_way(budget, 0.5) for budget in settings.budgets]
                teachers = self._choose(chooser, self._sites, halfway)
        kept = self._rearrange(kept, statistics, self._watch)
        return [_Plan(*plan) for plan in zip(settings.budgets, kept, teachers, strict=True)]

    def _on_the_way(self, budget: Budget, fraction: float) -> Budget:
        return (
            budget.part_way(self._prices(budget.kind).dense, fraction) if fraction < 1 else budget
        )

    def _learn(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        statistics: Statistics | None,
        learned: Learned,
    ) -> Chooser:
        """What units are worth, unless other runs have found it out."""
        settings = self._settings
        method, learn = settings.selection, settings.selection.learn
        assert learn is not None
        evidence = Evidence(
            model,
            sites,
            statistics,
            self._samples,
            order=settings.searched_order,
            seed=settings.seed,
            batch_size=settings.batch_size,
            dtype=settings.dtype,
            progress=settings.progress,
        )
        if method.score is not None:
            score = partial(method.score, evidence)
            evidence = replace(evidence, losses=learned.once(method.score, score, self._watch))
        return learned.once(settings.method_name, partial(learn, evidence), self._watch)

    def _choose(
        self, chooser: Chooser, sites: Sequence[Site], budgets: Sequence[Budget]
    ) -> list[Tensor]:
        """Packed masks of all budgets, those of one kind in one call."""
        settings = self._settings
        uniform = uniform_kinds(self._dense) if settings.uniform else None
        masks: dict[Budget, Tensor] = {}
        for kind in {budget.kind for budget in budgets}:
            alike = [budget for budget in budgets if budget.kind == kind]
            align = settings.alignment(kind)
            prices = self._prices(kind, sites)
            rows = chooser.masks(prices, alike, align=align, uniform=uniform)
            masks.update(zip(alike, rows, strict=True))
        return [masks[budget] for budget in budgets]

    def _rearrange(
        self, masks: list[Tensor], statistics: Statistics | None, watch: Stopwatch
    ) -> list[Tensor]:
        settings = self._settings
        if statistics is None or not (settings.selection.rearranges and settings.rearrange):
            return masks
        with watch.stage("rearrange"):
            return list(rearrange_masks(statistics, torch.stack(masks)).cpu())

    def _aids(self, statistics: Statistics | None) -> dict[str, Tensor]:
        """What tuning needs of the statistics, site by site."""
        if statistics is None:
            return {}
        if self._settings.tuner == "bias":
            return statistics.input_means()
        return statistics.output_metrics() if self._settings.tuner == "scale" else {}

    def _follow(self, plans: Sequence[_Plan], aids: dict[str, Tensor]) -> list[_Student]:
        """Remove what plans do not keep, and tune what is left, in as many stages as asked."""
        settings = self._settings
        students = []
        for plan in plans:
            masks = split_packed(plan.kept, self._sites)
            student = _Student(plan, self._watch.copy(), self._dense, masks)
            self._shrink(student, masks, aids)
            students.append(student)
        self._tune(students, aids)
        for stage in range(2, settings.stages + 1):
            going = [s for s in students if self._go_on(s, stage / settings.stages, aids)]
            self._tune(going, aids)
        return students

    def _go_on(self, student: _Student, fraction: float, aids: dict[str, Tensor]) -> bool:
        """Shrink a student as far as its stage goes; whether there was anything to do."""
        budget = student.plan.budget
        target = self._on_the_way(budget, fraction)
        # A share is one of the model handed in.
        target = target.absolute(self._prices(budget.kind).dense)
        sites = self._settings.sites(student.model)
        if self._prices(budget.kind, sites).dense <= target.value:
            return False  # whole sublayers or aligned counts can be a long step
        further, aids = self._choose_further(student.model, sites, target, aids, student.watch)
        student.masks = _composed(student.masks, further)
        self._shrink(student, further, aids)
        return True

    def _walk(self, budget: Budget, reference: Reference) -> Outcome:
        """Select and tune one sublayer after the other."""
        watch = self._watch.copy()
        with watch.stage("tune"):
            found = kprune(
                self._dense,
                self._survey.share,
                budget,
                seq_len=self._seq_len,
                reference=reference,
                trace=self._survey.trace,
                watch=watch,
                group=self._group,
                progress=self._settings.progress,
            )
        return Outcome(found.model, found.masks, found.tuning, watch)

    def _trained(self) -> Iterator[Pruned]:
        """Select while the weights are trained, then train those that are left."""
        settings, scorer = self._settings, self._scorer
        cofi = Cofi(
            self._dense,
            Goal(
                self._samples,
                None if scorer.metric is None else scorer.pruned,
                scorer.metric,
                scorer.samples,
                scorer.metric not in LOWER_IS_BETTER,
                self._seq_len,
            ),
            settings.gate_training,
            self._group,
        )
        for budget in settings.budgets:
            cofi.check(budget)
        dense_score = self._group.first(lambda: scorer.dense(self._dense))
        for budget in settings.budgets:
            watch = self._watch.copy()
            found = cofi.train(budget, watch)
            outcome = Outcome(found.model, found.masks, [], watch, found.hidden, found.record)
            yield from self._finish([budget], [outcome], dense_score)

    def _finish(
        self, budgets: Sequence[Budget], outcomes: Sequence[Outcome], dense_score: float | None
    ) -> Iterator[Pruned]:
        """Hand back what came out, scored and described by the first process."""
        for outcome in outcomes:
            self._reduce_tokens(outcome)
            if self._dense is not self._given:
                restore_dtypes(outcome.model, self._given)
        reports = self._group.first(lambda: self._describe(budgets, outcomes, dense_score))
        for outcome, report in zip(outcomes, reports, strict=True):
            yield Pruned(outcome.model, outcome.masks, outcome.hidden, report)

    def _reduce_tokens(self, outcome: Outcome) -> None:
        """Take tokens off a pruned and tuned model, where that is asked for."""
        settings, budget = self._settings, self._settings.token_budget
        if budget is None:
            return
        with outcome.watch.stage("search"):
            find = partial(
                schedule_within,
                outcome.model,
                self._samples,
                budget,
                seed=settings.seed,
                batch_size=settings.batch_size,
                dtype=settings.dtype,
                progress=settings.progress,
            )
            with_schedule_(outcome.model, self._group.first(find))

    def _describe(
        self, budgets: Sequence[Budget], outcomes: Sequence[Outcome], dense_score: float | None
    ) -> list[Report]:
        """Score, measure and describe what came out, side by side."""
        # What is handed back is what is scored, after rounding to its own type.
        scores = [
            Score(self._scorer.metric, dense_score, self._scorer.pruned(computable(outcome.model)))
            for outcome in outcomes
        ]
        models = [outcome.model for outcome in outcomes]
        measured = latencies(self._given, models, self._samples, self._settings, self._table)
        return [
            describe(
                self._given,
                budget,
                outcome,
                score,
                latency,
                self._samples,
                self._settings,
                self._seq_len,
                self._table,
                self._group.size,
            )
            for budget, outcome, score, latency in zip(
                budgets, outcomes, scores, measured, strict=True
            )
        ]

    def _choose_further(
        self,
        pruned: nn.Module,
        sites: Sequence[Site],
        budget: Budget,
        aids: dict[str, Tensor],
        watch: Stopwatch,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a smaller budget keeps of a pruned model, and what tuning then needs."""
        needed = any(self._settings.needs.values())
        statistics = self._survey.collect(pruned, watch) if needed else None

        def choose() -> Tensor:
            with watch.stage("search"):
                chooser = self._learn(pruned, sites, statistics, Learned())
                masks = self._choose(chooser, sites, [budget])
            return self._rearrange(masks, statistics, watch)[0]

        mask = self._group.first(choose)
        # Means are those of the model that units are removed from; outputs are the dense model's.
        if self._settings.tuner == "bias":
            aids = self._aids(statistics)
        return split_packed(mask, sites), aids

    def _shrink(self, student: _Student, masks: dict[str, Tensor], aids: dict[str, Tensor]) -> None:
        """Remove what the masks do not keep; biases are corrected at once, before it is gone."""
        before = student.model
        with student.watch.stage("compact"):
            student.model = compact(before, masks, self._settings.sites(before))
        if self._settings.tuner == "bias":
            with student.watch.stage("tune"):
                sites = find_sites(before)
                student.tuning = self._group.first(
                    lambda: keep_means(before, student.model, sites, masks, aids)
                )
                copy_projections(student.model, sites, self._group)

    def _tune(self, students: Sequence[_Student], metrics: dict[str, Tensor]) -> None:
        """Correct what is left of the students, those of one teacher side by side."""
        settings = self._settings
        tuner = RELEASED_TUNER if settings.parity else TUNERS[settings.tuner]
        if tuner is None or not students:
            return
        classes = [[student] for student in students] if settings.staged else [students]
        for taught in classes:
            with shared_stage([student.watch for student in taught], "tune"):
                tuned = tune_together(
                    self._teacher(taught[0].plan),
                    [student.model for student in taught],
                    self._survey.share,
                    tuner,
                    trace=self._survey.trace,
                    metrics=metrics,
                    batch_size=settings.batch_size,
                    dtype=settings.dtype,
                    group=self._group,
                    progress=settings.progress,
                )
            for student, tuning in zip(taught, tuned, strict=True):
                student.tuning = tuning

    def _teacher(self, plan: _Plan) -> nn.Module:
        if plan.teacher is None:
            return self._dense
        return compact(self._dense, split_packed(plan.teacher, self._sites), self._sites)

    def _prices(self, kind: BudgetKind, sites: Sequence[Site] | None = None) -> Prices:
        """What units cost: those of some sites, or of the model handed in."""
        sites = self._sites if sites is None else sites
        return price_sites(sites, kind, self._seq_len, self._table)


def _composed(masks: dict[str, Tensor], further: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks of the whole model from masks of what an earlier stage had left of it."""
    composed = {}
    for name, mask in masks.items():
        composed[name] = mask.clone()
        if name in further:
            composed[name][mask.bool()] = further[name]
    return composed
