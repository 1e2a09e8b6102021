"""What a pruning run is asked to do, checked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from fastprune.budget import Budget, BudgetKind
from fastprune.budget.latency import LatencyTable
from fastprune.calibration.collect import MINI_BATCH
from fastprune.calibration.objective import Targets
from fastprune.calibration.statistics import FisherKind, Needs
from fastprune.checks import check_known
from fastprune.cofi.choices import GateTraining
from fastprune.errors import FastpruneError
from fastprune.selection import METHODS, Method
from fastprune.spp.saved import SearchedPath
from fastprune.structure import GRANULARITIES, Site
from fastprune.tuning import TUNERS

DEFAULT_SAMPLES = 2048
DEFAULT_METHOD = "obs"
LATENCY_ALIGN = 8
"""Filter counts that a latency budget may choose. Latency tables are measured at multiples of it;
between them, vector instructions and tensor cores run partly empty, which no table foresees."""
TEACHERS = ("dense", "staged")
PRESETS = ("kwon2022",)
"""Named groups of settings. ``kwon2022`` reproduces the original algorithm step for step."""


@dataclass(frozen=True)
class Settings:
    """All choices of a run; see :func:`fastprune.prune` for what they mean.

    ``cache`` is the directory where statistics are kept for later runs; None = nowhere.
    """

    budgets: tuple[Budget, ...]
    method: str | None = None
    granularity: str = "heads"
    path: SearchedPath | str | os.PathLike[str] | None = None
    training: GateTraining | None = None
    tune: str | None = None
    stages: int = 1
    teacher: str = "dense"
    preset: str | None = None
    metric: str | None = None
    samples: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    seq_len: float | None = None
    seed: int = 0
    fisher: FisherKind | None = None
    targets: Targets = "model"
    rearrange: bool = True
    align: int | None = None
    uniform: bool = False
    tokens: float | None = None
    text_columns: Sequence[str] | None = None
    label_column: str | None = None
    latency: bool = True
    latency_table: LatencyTable | str | os.PathLike[str] | None = None
    device: str | torch.device = "auto"
    dtype: torch.dtype = torch.float32
    progress: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        check_known("method", self.method_name, METHODS)
        check_known("granularity", self.granularity, GRANULARITIES)
        check_known("tune", self.tuner, TUNERS)
        check_known("teacher", self.teacher, TEACHERS)
        check_known("fisher", self.fisher_kind, get_args(FisherKind))
        check_known("targets", self.targets, get_args(Targets))
        if self.preset is not None:
            check_known("preset", self.preset, PRESETS)
        if not self.budgets:
            raise FastpruneError("no budget given; name one, such as macs=0.5")
        if len(set(map(str, self.budgets))) < len(self.budgets):
            raise FastpruneError("the same budget is given twice; name each budget once")
        for name in ("samples", "batch_size", "stages", "align", "max_length"):
            value = getattr(self, name)
            optional = name != "stages"
            if optional and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise FastpruneError(f"{name} must be a whole number from 1 on, got {value}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise FastpruneError(f"seed must be a whole number in [0, 2**31), got {self.seed}")
        number = isinstance(self.seq_len, (int, float)) and 0 < self.seq_len < float("inf")
        if self.seq_len is not None and not number:
            raise FastpruneError(f"seq_len must be a positive number of tokens, got {self.seq_len}")
        if self.fisher is not None and not self.selection.of_masks and not self.parity:
            raise FastpruneError(
                f"method {self.method_name} takes no fisher={self.fisher}; leave it out, or use "
                "method fisher"
            )
        if self.tokens is not None:
            self._check_tokens(self.tokens)
        if self.granularity != "heads":
            self._check_granularity()
        if self.path is not None and self.method_name != "spp":
            raise FastpruneError(
                f"method {self.method_name} follows no searched path; use method spp, or leave "
                "path out"
            )
        if self.training is not None and not isinstance(self.training, GateTraining):
            raise FastpruneError(
                f"training must be a fastprune.GateTraining, got {self.training!r}"
            )
        if self.training is not None:
            self.training.check_left_to_run()
        if self.training is not None and not self.selection.trains:
            raise FastpruneError(
                f"method {self.method_name} does not train; use method cofi, or leave training out"
            )
        if self.selection.while_tuning:
            self._check_while_tuning()
        original = f"preset {self.preset}" if self.parity else None
        refusing = f"method {self.method_name}" if self.selection.while_tuning else original
        if self.promises_latency and refusing:
            cure = "a budget in params or macs" if self.selection.trains else "method obs or fisher"
            raise FastpruneError(f"{refusing} does not go with latency budgets; use {cure}")

    def _check_tokens(self, share: float) -> None:
        """Refuse shares out of range, and what token reduction does not go with."""
        if not isinstance(share, (int, float)) or not 0 < share < 1:
            raise FastpruneError(
                f"tokens must be the share of the MACs that fewer tokens save, between 0 and 1, "
                f"got {share}"
            )
        if self.uniform:
            raise FastpruneError(
                "token reduction does not go with uniform: no stock config can describe it; leave "
                "one of them out"
            )
        if self.promises_latency or self.latency_table is not None:
            raise FastpruneError(
                "token reduction does not go with latency budgets or tables, which know all tokens "
                "only; use a budget in macs or params"
            )

    def _check_granularity(self) -> None:
        """Refuse what does not go with dimensions inside heads."""
        if not self.selection.inside_heads:
            able = [name for name, method in METHODS.items() if method.inside_heads]
            raise FastpruneError(
                f"method {self.method_name} chooses among whole heads; for "
                f"granularity={self.granularity} use method {', '.join(able)}"
            )
        if self.promises_latency or self.latency_table is not None:
            raise FastpruneError(
                f"latency budgets and tables know whole heads only; for "
                f"granularity={self.granularity} use a budget in macs or params"
            )
        self._check_only(
            f"granularity={self.granularity}",
            {
                "tune": (None, "weights", "none"),
                "stages": (1,),
                "teacher": ("dense",),
                "uniform": (False,),
            },
        )

    @property
    def token_budget(self) -> Budget | None:
        """What token reduction is to leave of the MACs of a pruned model; None = no reduction."""
        return None if self.tokens is None else Budget("macs", 1 - self.tokens)

    def _check_while_tuning(self) -> None:
        """Refuse what a method that tunes as it selects cannot honour."""
        self._check_only(
            f"method {self.method_name}",
            {
                "tune": (None, "none" if self.selection.trains else "weights"),
                "stages": (1,),
                "teacher": ("dense",),
                "targets": ("model",),
                "align": (None, 1),
                "uniform": (False,),
            },
        )

    def _check_only(self, choice: str, allowed: Mapping[str, tuple[object, ...]]) -> None:
        """Refuse settings with other values than a choice can honour."""
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise FastpruneError(
                    f"{choice} does not go with {name}={getattr(self, name)}; leave one of them out"
                )

    @property
    def limit(self) -> int:
        """How many calibration samples are drawn, where there are that many."""
        return self.samples or DEFAULT_SAMPLES

    @property
    def parity(self) -> bool:
        """Whether the run follows the original algorithm step for step."""
        return self.preset == "kwon2022"

    @property
    def promises_latency(self) -> bool:
        """Whether any budget is one of latency."""
        return any(budget.kind == "latency" for budget in self.budgets)

    def alignment(self, kind: BudgetKind) -> int:
        """What filter counts are multiples of under a budget of ``kind``."""
        if self.align is not None:
            return self.align
        return LATENCY_ALIGN if kind == "latency" else 1

    @property
    def staged(self) -> bool:
        """Whether tuning imitates a model pruned half-way instead of the dense one."""
        return self.parity or self.teacher == "staged"

    @property
    def imitates_dense(self) -> bool:
        """Whether tuning needs to know what the dense model does."""
        return TUNERS[self.tuner] is not None and not self.staged

    @property
    def method_name(self) -> str:
        """How units are chosen, by name."""
        return DEFAULT_METHOD if self.method is None else self.method

    def sites(self, model: nn.Module) -> list[Site]:
        """What the method chooses from.

        Raises:
            UnsupportedModelError: a model that is not cut this finely.
        """
        return GRANULARITIES[self.granularity](model)

    @property
    def searched_order(self) -> Tensor | None:
        """The order of a path that was searched beforehand, once it has been read."""
        return self.path.units_in_order() if isinstance(self.path, SearchedPath) else None

    @property
    def selection(self) -> Method:
        """How units are chosen."""
        return METHODS[self.method_name]

    def for_layers(self, stacked: bool) -> Settings:
        """These settings for a model whose layers do or do not follow each other at one width.

        Where they do not, nothing can be tuned layer after layer: the defaults are then method
        ``fisher`` and tune ``bias``.

        Raises:
            FastpruneError: a choice that such a model does not go with.
        """
        if stacked:
            return self
        walks = "; its layers do not follow each other at one width"
        asked = METHODS[self.method or "fisher"]
        if asked.moments or asked.while_tuning:
            raise FastpruneError(
                f"method {self.method_name} does not go with this model{walks}; use method fisher, "
                "optin or spp"
            )
        if TUNERS[self.tune or "bias"] is not None:
            raise FastpruneError(
                f"tune={self.tuner} does not go with this model{walks}; use tune bias or none"
            )
        if self.promises_latency or self.latency_table is not None:
            raise FastpruneError(
                f"latency budgets do not go with this model{walks}; use a budget in macs or params"
            )
        return replace(self, method=self.method or "fisher", tune=self.tune or "bias")

    def check_task(self, task: str) -> None:
        """Refuse samples of a task that the method does not go with.

        Raises:
            FastpruneError: saying why.
        """
        if task in self.selection.refuses:
            raise FastpruneError(f"method {self.method_name} {self.selection.refuses[task]}")

    @property
    def needs(self) -> Needs:
        """What has to be collected from the samples; see :func:`collect_statistics`."""
        method = self.selection
        return Needs(
            mask_fisher=method.mask_fisher,
            mask_gradients=method.mask_gradients and self.path is None,
            output_fisher=method.moments or (self.tuner == "scale" and not self.parity),
            input_moments=method.moments or self.tuner == "bias",
        )

    @property
    def together(self) -> int:
        """Samples in a row that make one gradient: processes must not separate them."""
        if self.selection.while_tuning:
            return MINI_BATCH
        return 1 if self.fisher_kind == "sample" else self.batch_size or MINI_BATCH

    def with_statistics(self, fisher: FisherKind, targets: Targets) -> Settings:
        """These settings, for statistics that have been collected already.

        Args:
            fisher: what they are of.
            targets: likewise.

        Raises:
            FastpruneError: something else was asked for.
        """
        # "model" is the default, so that whoever has other statistics need not say so.
        for name, asked, found in (
            ("fisher", self.fisher, fisher),
            ("targets", self.targets, targets),
        ):
            if asked not in (None, "model", found):
                raise FastpruneError(
                    f"the statistics were collected with {name}={found}, but {name}={asked} is "
                    f"asked for; collect them again, or leave {name} out"
                )
        return replace(self, fisher=fisher if self.selection.of_masks else None, targets=targets)

    def resolved(self) -> Settings:
        """These settings, with what the preset prescribes.

        Raises:
            FastpruneError: the preset contradicts a choice it cannot honour.
        """
        if not self.parity:
            return self
        prescribed = {
            "method": (None, "fisher"),
            "granularity": ("heads",),
            "tune": (None, "scale"),
            "fisher": (None, "batch"),
            "rearrange": (True,),
            "stages": (1,),
            "align": (None, 1),
            "uniform": (False,),
            "tokens": (None,),
        }
        for name, allowed in prescribed.items():
            if getattr(self, name) not in allowed:
                raise FastpruneError(
                    f"preset {self.preset} does not go with {name}={getattr(self, name)}; leave "
                    f"{name} out"
                )
        return replace(self, method="fisher", tune="scale", fisher="batch", targets="labels")

    @property
    def tuner(self) -> str:
        """How survivors are corrected; a method that trains has done so."""
        default = "none" if self.selection.trains else "weights"
        return default if self.tune is None else self.tune

    @property
    def _training(self) -> GateTraining:
        return GateTraining() if self.training is None else self.training

    @property
    def gate_training(self) -> GateTraining:
        """How a model is trained under gates."""
        return self._training.running(seed=self.seed, dtype=self.dtype, progress=self.progress)

    def keeping(self, checkpoints: Path, *, resume: bool) -> Settings:
        """These settings, with training that keeps checkpoints, unless it says where itself.

        Args:
            checkpoints: a directory.
            resume: go on from what is there.
        """
        if self._training.checkpoints is not None:
            return self
        kept = replace(self._training, checkpoints=checkpoints, resume=resume)
        return replace(self, training=kept)

    @property
    def fisher_kind(self) -> FisherKind:
        """Whose gradients make up the Fisher information."""
        return self.fisher or "sample"


def check_options(caller: str, options: Iterable[str], own: Iterable[str]) -> None:
    """Refuse keywords that are no settings, or that ``caller`` sets itself.

    Args:
        caller: what it is called in messages.
        options: the keywords given.
        own: settings that are not for its callers.

    Raises:
        FastpruneError: naming what was probably meant.
    """
    known = {field.name for field in fields(Settings)} - set(own)
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise FastpruneError(f"{caller} takes no option {name!r}{hint}")
