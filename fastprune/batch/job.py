"""A job: one model on one task, to all its budgets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastprune.budget import Budget
from fastprune.cofi.options import gate_training
from fastprune.compaction.directories import budget_directory
from fastprune.device import resolve_dtype
from fastprune.pareto.sweep import resolve_cache
from fastprune.settings import Settings


@dataclass(frozen=True)
class Resources:
    """What a job holds while it runs.

    Attributes:
        cpus: cores, and so threads; None for an equal part of the machine.
        gpus: GPUs, or a share of one in (0, 1); None for what the machine and its workers suggest.
    """

    cpus: int | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Job:
    """One model on one task.

    Attributes:
        name: of its directory, its log and its rows in the summary.
        model: directory or hub id.
        train: calibration data: a file or the name of a hub task.
        eval: held-out data, likewise; None where nothing is scored.
        budgets: each once.
        options: further keywords of :func:`fastprune.sweep`, as they stand in the job file.
        resources: what it holds while it runs.
        overwrite: whether results of another model, data or options may be replaced.
        place: file and line it comes from, for messages.
    """

    name: str
    model: str
    train: str
    eval: str | None
    budgets: tuple[Budget, ...]
    options: dict[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    overwrite: bool = False
    place: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The job that :meth:`to_dict` describes."""
        fields = dict(values)
        fields["budgets"] = tuple(Budget(**budget) for budget in fields["budgets"])
        fields["resources"] = Resources(**fields["resources"])
        return cls(**fields)

    @property
    def work(self) -> dict[str, Any]:
        """What decides about its results, budget by budget."""
        options = {key: value for key, value in self.options.items() if key != "cache"}
        return {"model": self.model, "train": self.train, "eval": self.eval, **options}

    def settings(self) -> Settings:
        """What is asked of its run.

        Raises:
            FastpruneError: something that no run would accept.
        """
        options = dict(self.options)
        options["dtype"] = resolve_dtype(options.get("dtype", "auto"))
        options["cache"] = resolve_cache(options.get("cache", True))
        if "training" in options:
            options["training"] = gate_training(**options["training"])
        return Settings(budgets=self.budgets, **options)

    def directories(self) -> dict[str, str]:
        """The name of every budget's directory within the job's own, by the budget as text."""
        return {str(budget): budget_directory(Path(), budget).name for budget in self.budgets}
