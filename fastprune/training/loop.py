"""The training loop: transformers' Trainer, fed with samples and kept quiet.

``transformers.Trainer`` is imported where it is needed: it takes seconds, and accelerate, which
pruning alone does without.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from fastprune.data import Samples
from fastprune.data.fitting import check_labels
from fastprune.device import device_of
from fastprune.distributed import current_group
from fastprune.errors import CheckpointError, DataError, FastpruneError, NumericalError
from fastprune.progress import progress_bar
from fastprune.training.choices import Training
from fastprune.training.order import ByLength

_RECORDED = 50
"""How many times in the course of a training its loss is recorded, about."""
_ENDING, _UNTOLD = {"train_runtime"}, ("grad_norm", "learning_rate")
"""What the record is not of: the entry that has the first, and keys."""
_DIVERGED = "training does not stay finite; use a smaller learning rate, or --dtype float32"


def check_trainable(model: nn.Module, samples: Samples) -> None:
    """Refuse what no training is possible without.

    Raises:
        FastpruneError: accelerate is missing.
        DataError: samples that say nothing of what is right, or name a class the model lacks.
    """
    if find_spec("accelerate") is None:
        raise FastpruneError("training needs accelerate: pip install 'fastprune[training]'")
    if samples.task == "embedding":
        raise DataError("sentence embeddings have no labels to learn from; train by other means")
    if samples.labels is None and samples.task != "causal-lm":
        raise DataError("training needs labels and the data have none; name the label column")
    check_labels(samples, getattr(model, "config", None))


def check_unfrozen(model: nn.Module) -> None:
    """Refuse a model none of whose weights is to be trained.

    Raises:
        FastpruneError: saying so.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FastpruneError("all weights are frozen; unfreeze some with requires_grad_(True)")


def batch_inputs(samples: Samples, positions: list[int]) -> dict[str, torch.Tensor]:
    """What a model with a loss of its own takes: one padded batch, labels included."""
    batch = samples.collate(positions)
    del batch["sample_index"]
    return batch


def make_trainer(
    model: nn.Module,
    samples: Samples,
    training: Training,
    directory: Path,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: LambdaLR | None = None,
    score: Callable[[], float] | None = None,
    greater_is_better: bool = True,
    label: str = "train",
    figures: Callable[[], Mapping[str, float]] = dict,
) -> Any:
    """A Trainer for a model that returns its loss.

    Args:
        model: on its device; is trained where it is.
        samples: to learn from.
        training: how.
        directory: for checkpoints.
        optimizer: steps at a constant rate; AdamW with a schedule by default.
        schedule: of the optimizer's rates instead.
        score: of the model as it stands, on held-out data, taken at every checkpoint; the best
            checkpoint is what comes out. None = the last one.
        greater_is_better: of scores.
        label: of the bar.
        figures: of the model as it stands, by name: shown behind the bar, and part of the record
            (:func:`record`).

    Raises:
        FastpruneError: a model on a GPU that the Trainer would not train on.
    """
    from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

    class Scored(Trainer):
        """Evaluates by the score that was given, whatever the task."""

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            assert score is not None
            metrics = {"eval_score": score()}
            model.train()
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

        def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
            # float16 has losses that do not count: they make the scaler of gradients smaller.
            if training.dtype != torch.float16 and not math.isfinite(logs.get("loss", 0.0)):
                raise NumericalError(_DIVERGED)
            super().log({**logs, **figures()}, *given, **named)

        def _get_train_sampler(self, *given: Any) -> Any:
            if not training.group_by_length:
                return super()._get_train_sampler(*given)
            size = training.batch_size * self.args.world_size
            order = ByLength(samples.lengths, size, training.seed)
            # Wrapped as it will be, it hears of epochs nowhere else.
            self.add_callback(_told_epochs(order))
            return order

    device = device_of(model)
    steps = training.steps(len(samples), current_group().size)
    when = "epoch" if training.save_every is None else "steps"
    arguments = TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulate,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        lr_scheduler_type="cosine" if optimizer is None else "constant",
        warmup_steps=steps // 10 if optimizer is None else 0,
        max_grad_norm=1.0 if optimizer is None else 0.0,
        save_strategy=when,
        save_steps=training.save_every or 500,
        save_total_limit=2,
        eval_strategy="no" if score is None else when,
        eval_steps=training.save_every,
        load_best_model_at_end=score is not None,
        metric_for_best_model=None if score is None else "eval_score",
        greater_is_better=None if score is None else greater_is_better,
        logging_strategy="steps",
        logging_steps=max(1, steps // _RECORDED),
        logging_nan_inf_filter=False,
        seed=training.seed,
        data_seed=training.seed,
        bf16=training.dtype == torch.bfloat16,
        fp16=training.dtype == torch.float16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    trains_on = arguments.device
    if device.type != "cpu" and (trains_on.type, trains_on.index or 0) != (
        device.type,
        device.index or 0,
    ):
        raise FastpruneError(
            f"training runs on {trains_on}, but the model is on {device}; choose the GPU with "
            "CUDA_VISIBLE_DEVICES instead"
        )
    # Left alone, one process would take every GPU and copy the model to all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = Scored(
        model=model,
        args=arguments,
        train_dataset=range(len(samples)),
        eval_dataset=None if score is None else range(1),
        data_collator=lambda positions: batch_inputs(samples, positions),
        optimizers=(optimizer, schedule),
        callbacks=[_watcher(training.progress, label, figures)],
    )
    # Losses are means of batches, whatever the model could make of a count of all labels.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def run(trainer: Any, directory: Path, last: Path | None, *, diverged: str = _DIVERGED) -> None:
    """Train, from the last checkpoint on where there is one.

    Args:
        trainer: of :func:`make_trainer`.
        directory: its checkpoints'.
        last: of :func:`fastprune.training.checkpoints.checkpoints_in`.
        diverged: what to say of numbers that are not finite: the cause, then the cure.

    Raises:
        CheckpointError: a checkpoint that cannot be written.
        NumericalError: weights or scores that are not finite; checkpoints are removed.
    """
    from transformers import set_seed

    rank = trainer.args.process_index
    if last is None and rank > 0:
        # The Trainer has seeds that are alike everywhere; what is drawn should not be.
        set_seed(trainer.args.seed + rank)
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        check_finite(trainer.model)
    except NumericalError as error:
        shutil.rmtree(directory, ignore_errors=True)  # going on from there would end here again
        raise NumericalError(diverged) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        # What torch and safetensors make of a full disk is no OSError.
        writing = isinstance(error, (OSError, SafetensorError)) or "PytorchStream" in str(error)
        if not writing and "inline_container" not in str(error):
            raise
        raise CheckpointError(
            f"cannot write a checkpoint to {directory} ({str(error).splitlines()[0]}); make room, "
            "and where checkpoints are kept go on with --resume"
        ) from error


def record(trainer: Any) -> list[dict[str, float]]:
    """What was noted in the course of a training, of a resumed one from its start: by step, the
    mean loss since the one before, figures, and scores of checkpoints.
    """
    noted: dict[int, dict[str, float]] = {}
    for entry in trainer.state.log_history:
        if not _ENDING & entry.keys():
            told = {n.removeprefix("eval_"): v for n, v in entry.items() if n not in _UNTOLD}
            noted.setdefault(entry["step"], {"step": entry["step"]}).update(told)
    return list(noted.values())


@contextmanager
def surroundings_kept(device: torch.device) -> Iterator[None]:
    """Within the block the Trainer may seed what it likes, and gradients are on whatever the
    caller's own code has switched; afterwards all is as it was.

    Args:
        device: that is trained on.
    """
    # Or it would decide where the Trainer is asked for neither bfloat16 nor float16.
    precision = os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        if precision is not None:
            os.environ["ACCELERATE_MIXED_PRECISION"] = precision


@contextmanager
def config_kept(model: Any) -> Iterator[None]:
    """A first pass with labels writes into the config what problem it takes them for."""
    before = getattr(model.config, "problem_type", None)
    try:
        yield
    finally:
        model.config.problem_type = before


def check_finite(model: nn.Module) -> None:
    """Refuse what has been trained to pieces.

    Raises:
        NumericalError: a weight that is not finite.
    """
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise NumericalError(_DIVERGED)


def _told_epochs(order: ByLength) -> Any:
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        """Tells an order which epoch is next."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            order.set_epoch(int(state.epoch or 0))

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            order.set_epoch(int(state.epoch or 0))

    return Told()


def _watcher(progress: bool, label: str, figures: Callable[[], Mapping[str, float]]) -> Any:
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        """A bar of all steps, for the first process alone, and a score at the end."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            shown = progress and state.is_world_process_zero
            self._bar = progress_bar(label, total=state.max_steps, enabled=shown, unit="step")
            self._bar.update(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not self._bar.disable:
                shown = ", ".join(f"{name} {value:.3f}" for name, value in figures().items())
                self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(state.global_step - self._bar.n)
            # transformers 4 saves an end that is between two evaluations, but does not score it.
            if state.global_step >= state.max_steps and args.eval_strategy.value == "steps":
                control.should_evaluate = True

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._bar.close()

    return Watcher()
