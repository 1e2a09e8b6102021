"""Fine-tuning of pruned models: what training gives back, where there is time for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastprune.atomic import check_target
from fastprune.compaction import save_pretrained
from fastprune.compaction.directories import read_report
from fastprune.data import Samples
from fastprune.device import cache_off, device_of, full_precision, resolve_dtype
from fastprune.errors import DataError
from fastprune.evaluation import evaluate, resolve_metric
from fastprune.evaluation.metrics import LOWER_IS_BETTER
from fastprune.fingerprint import fingerprint_model, fingerprint_samples
from fastprune.inputs import Reader, check_weights, load_model, load_tokenizer
from fastprune.merging.reduction import refuse_reduced
from fastprune.report import versions
from fastprune.training.checkpoints import checkpoints_in
from fastprune.training.choices import Training
from fastprune.training.loop import (
    check_finite,
    check_trainable,
    check_unfrozen,
    make_trainer,
    run,
    surroundings_kept,
)


@dataclass(frozen=True)
class Finetuned:
    """A model that has been trained, and what came of it.

    Attributes:
        model: in evaluation mode, with the widths it had.
        metric: what was scored; None where nothing was.
        before: score of the model handed in.
        after: of the best checkpoint.
        steps: that were taken.
        seconds: that this session's training took, scoring included.
    """

    model: nn.Module
    metric: str | None
    before: float | None
    after: float | None
    steps: int
    seconds: float


def finetune(
    model: nn.Module | str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    eval_data: Any = None,
    metric: str | None = None,
    epochs: float = 3.0,
    batch_size: int = 32,
    accumulate: int = 1,
    learning_rate: float = 3e-5,
    weight_decay: float = 0.01,
    save_every: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    tokenizer: Any = None,
    max_length: int | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    progress: bool = False,
) -> Finetuned:
    """Train a model, pruned or not, on its task, and save it; what was removed stays removed.

    AdamW with a cosine schedule on the Trainer of transformers. With ``eval_data`` every checkpoint
    is scored and the best one is saved, else the last one. Weights of half types are trained in
    float32 and rounded at the end.

    Args:
        model: a Hugging Face model, or the path of one. A live model is trained where it is, and
            left half trained where training is interrupted.
        data: labelled training data in any form :func:`fastprune.load_samples` reads.
        out: the directory to write. Checkpoints lie beside it while training runs, in
            ``<out>.checkpoints``.
        eval_data: held-out data to score on.
        metric: of ``eval_data``; by default the task's customary one.
        epochs: rounds through the data.
        batch_size: samples of a batch.
        accumulate: batches whose gradients make one step.
        learning_rate: the highest; it rises over the first tenth of the steps.
        weight_decay: of AdamW.
        save_every: steps between checkpoints; None = at the end of each epoch.
        samples: how many to draw, by ``seed``; by default all there are.
        seed: of the order of samples and of dropout.
        resume: go on from the last checkpoint of an interrupted training.
        overwrite: replace an existing model at ``out``.
        tokenizer: as for :func:`fastprune.prune`, like the rest.

    Raises:
        FastpruneError: anything the user can mend, in one line.
    """
    training = Training(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        save_every=save_every,
        seed=seed,
        dtype=resolve_dtype(dtype),
        progress=progress,
    )
    sources = [s for s in (model, data, eval_data) if isinstance(s, (str, os.PathLike))]
    target = check_target(out, overwrite, keep=sources)
    checkpoints = target.with_name(f"{target.name}.checkpoints")
    trained = load_model(model, device)
    if tokenizer is None and not isinstance(model, nn.Module):
        tokenizer = load_tokenizer(model, trained)
    reader = Reader(trained, tokenizer, max_length, text_columns, label_column, progress)
    learned_from = reader.training(data, samples, seed)
    check_trainable(trained, learned_from)
    check_weights(trained)
    check_unfrozen(trained)
    if any(getattr(module, "gradient_checkpointing", False) for module in trained.modules()):
        refuse_reduced(trained, "turn gradient checkpointing off: no block can be run again alone")
    held_out = None if eval_data is None else reader.held_out(eval_data)
    score = _Score(trained, held_out, metric, training)
    of_what = {
        "model": fingerprint_model(trained),
        "samples": fingerprint_samples(learned_from),
        "held_out": held_out and fingerprint_samples(held_out),
        "metric": score.name,
        "training": {**asdict(training), "progress": None},
    }
    with checkpoints_in(checkpoints, of_what, resume=resume) as last:
        before, start = score(), time.perf_counter()
        surroundings = surroundings_kept(device_of(trained))
        with cache_off(trained), full_precision(trained), surroundings:
            trainer = make_trainer(
                trained,
                learned_from,
                training,
                checkpoints,
                score=None if held_out is None else partial(_number, score),
                greater_is_better=score.name not in LOWER_IS_BETTER,
            )
            run(trainer, checkpoints, last)
    check_finite(trained)  # once more: rounding to float16 may overflow
    trained.eval()
    seconds = time.perf_counter() - start
    found = Finetuned(trained, score.name, before, score(), trainer.state.global_step, seconds)
    if trainer.is_world_process_zero():
        earlier = None if isinstance(model, nn.Module) else read_report(Path(model))
        save_pretrained(
            trained,  # type: ignore[arg-type]
            target,
            tokenizer,
            report={**(earlier or {}), "finetuning": _record(found, training, learned_from)},
            overwrite=overwrite,
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
    return found


class _Score:
    """The score of a model as it stands; None without data."""

    def __init__(
        self, model: nn.Module, samples: Samples | None, metric: str | None, training: Training
    ) -> None:
        if samples is None and metric is not None:
            raise DataError(f"metric {metric!r} needs evaluation data; give eval_data (--eval)")
        self.name = None if samples is None else resolve_metric(metric, samples)
        self._model, self._samples, self._training = model, samples, training

    def __call__(self) -> float | None:
        if self._samples is None:
            return None
        return evaluate(
            self._model,
            self._samples,
            self.name,
            dtype=self._training.dtype,
            progress=self._training.progress,
        )


def _number(score: _Score) -> float:
    value = score()
    assert value is not None
    return value


def _record(found: Finetuned, training: Training, samples: Samples) -> dict[str, Any]:
    """What the report of a fine-tuned model says about it."""
    return {
        **asdict(training),
        "progress": None,
        "dtype": str(training.dtype).removeprefix("torch."),
        "samples": len(samples),
        "steps": found.steps,
        "metric": found.metric,
        "score": {"before": found.before, "after": found.after},
        "seconds": found.seconds,
        "device": str(device_of(found.model)),
        "versions": versions(),
    }
