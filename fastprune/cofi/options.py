"""Training under gates from one flat set of plain values: of command lines and job files."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from fastprune.cofi.choices import AFTERWARDS, UNDER_GATES, GateTraining

_COMMON = ("batch_size", "accumulate", "save_every", "weight_decay")
"""Of both phases."""
PHASES = ("epochs", "learning_rate", "finetune_epochs", "finetune_learning_rate")
"""How long weights are trained and how fast, under gates and afterwards."""
_NOT_PLAIN = ("training", "finetuning", "loss", "checkpoints", "resume")
OPTIONS = (
    *PHASES,
    *_COMMON,
    *(field.name for field in fields(GateTraining) if field.name not in _NOT_PLAIN),
)
"""What a training can be given as plain values."""


def gate_training(**options: Any) -> GateTraining:
    """A training under gates, and afterwards, from :data:`OPTIONS` and others of its fields.

    Options that are left out have their defaults; ``finetune_epochs=0`` is no fine-tuning.

    Raises:
        FastpruneError: a value that is out of range, or of the wrong type.
    """
    common = {name: options.pop(name) for name in _COMMON if name in options}
    under_gates, afterwards = dict(common), dict(common)
    for name in PHASES:
        if name in options:
            phase = afterwards if name.startswith("finetune_") else under_gates
            phase[name.removeprefix("finetune_")] = options.pop(name)
    none = "epochs" in afterwards and afterwards["epochs"] == 0
    return GateTraining(
        training=replace(UNDER_GATES, **under_gates),
        finetuning=None if none else replace(AFTERWARDS, **afterwards),
        **options,
    )
